//! What is put into a task's directory: artifacts and templates.

use std::time::Duration;

use moat_model::job::{ArtifactMode, ArtifactSpec, ChangeMode, TemplateSpec};

use crate::fields::{Absent, Fields};

/// Schemes whose programs are not there, and what to do.
const SCHEMES_ABSENT: [(&str, &str); 4] = [
    ("hg::", "Mercurial is not fetched: offer the files over http or git"),
    ("gcs::", "Google's storage is not fetched by its own protocol: use its https addresses"),
    ("file://", "files of the node are not artifacts: use a host volume, or the node's chroot_env"),
    ("file::", "files of the node are not artifacts: use a host volume, or the node's chroot_env"),
];

const TEMPLATE_ABSENT: Absent = &[
    ("vault_grace", "there is no Vault"),
    ("wait", "templates are rendered when their task starts, and when what they show changes: leave it out"),
];

pub(super) fn artifacts(fields: &Fields<'_>) -> Vec<ArtifactSpec> {
    let parts = fields.blocks("artifact", 0);
    let one = |part: &crate::fields::Part<'_>| {
        let inner = Fields::of(part, fields, "artifact", "artifact".to_owned());
        let source = inner.text("source");
        let source = inner.needed("source", source, "\"https://…\"");
        if let Some((_, instead)) =
            SCHEMES_ABSENT.iter().find(|(scheme, _)| source.as_ref().is_some_and(|text| text.starts_with(scheme)))
        {
            inner.refuse("source", "this is not a source artifacts come from", instead);
        }
        let modes = [("any", ArtifactMode::Any), ("file", ArtifactMode::File), ("dir", ArtifactMode::Dir)];
        let artifact = ArtifactSpec {
            source: source.unwrap_or_default(),
            destination: inner.text("destination").unwrap_or_else(|| "local/".to_owned()),
            mode: inner.choice("mode", &modes).unwrap_or(ArtifactMode::Any),
            options: inner.map("options"),
            headers: inner.map("headers"),
            insecure: inner.flag("insecure").unwrap_or(false),
            chown: inner.flag("chown").unwrap_or(false),
        };
        inner.finish(&[]);
        artifact
    };
    parts.iter().map(one).collect()
}

/// What is wrong with a checksum's text. One that a node fills in is read there.
pub(super) fn bad_checksum(text: &str) -> Option<String> {
    if text.contains("${") {
        return None;
    }
    let Some((kind, digits)) = text.split_once(':') else {
        return Some(format!("the checksum {text:?} does not say how it is taken"));
    };
    let wanted = match kind {
        "md5" => 32,
        "sha1" => 40,
        "sha256" => 64,
        "sha512" => 128,
        "file" => return Some("checksums are given, not fetched".to_owned()),
        other => return Some(format!("{other:?} is none of md5, sha1, sha256, sha512")),
    };
    if digits.len() != wanted {
        return Some(format!("a checksum of {kind} has {wanted} digits, and this has {}", digits.len()));
    }
    digits.bytes().any(|b| !b.is_ascii_hexdigit()).then(|| format!("the checksum {text:?} is not hexadecimal"))
}

pub(super) fn templates(fields: &Fields<'_>) -> Vec<TemplateSpec> {
    let parts = fields.blocks("template", 0);
    let one = |part: &crate::fields::Part<'_>| {
        let inner = Fields::of(part, fields, "template", "template".to_owned());
        let template = template(&inner);
        inner.finish(TEMPLATE_ABSENT);
        template
    };
    parts.iter().map(one).collect()
}

fn template(fields: &Fields<'_>) -> TemplateSpec {
    let data = fields.text("data");
    let source = fields.text("source").filter(|source| !source.is_empty());
    match (&data, &source) {
        (None, None) => fields.refuse("data", "there is nothing to render", "give data, or source"),
        (Some(_), Some(_)) => fields.refuse("source", "data and source exclude each other", "give one of them"),
        _ => {}
    }
    let destination = fields.text("destination");
    let destination = fields.needed("destination", destination, "\"local/config.txt\"").unwrap_or_default();
    let perms = fields.word("perms").map(|text| u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777));
    if perms == Some(None) {
        fields.refuse("perms", "perms is an octal mode", "write perms = \"0644\"");
    }
    let change_mode = change_mode(fields);
    let env = fields.flag("env").unwrap_or(false);
    if env && matches!(change_mode, ChangeMode::Signal { .. }) {
        let fix = "a running program's environment cannot change: use change_mode = \"restart\"";
        fields.refuse("change_mode", "env and change_mode = \"signal\" exclude each other", fix);
    }
    let id = |name: &'static str| {
        let id: Option<i64> = fields.whole(name, -1, i64::from(u32::MAX));
        id.and_then(|id| u32::try_from(id).ok())
    };
    let delimiter = |name: &'static str, base: &str| {
        let given = fields.word(name).filter(|text| !text.is_empty());
        given.unwrap_or_else(|| base.to_owned())
    };
    TemplateSpec {
        data,
        source,
        destination,
        change_mode,
        splay: fields.span("splay").unwrap_or(Duration::from_secs(5)),
        perms: perms.flatten().unwrap_or(0o644),
        uid: id("uid"),
        gid: id("gid"),
        left_delimiter: delimiter("left_delimiter", "{{"),
        right_delimiter: delimiter("right_delimiter", "}}"),
        env,
        error_on_missing_key: fields.flag("error_on_missing_key").unwrap_or(false),
        once: fields.flag("once").unwrap_or(false),
    }
}

fn change_mode(fields: &Fields<'_>) -> ChangeMode {
    let modes = [("restart", 0), ("noop", 1), ("signal", 2), ("script", 3)];
    let mode = fields.choice("change_mode", &modes).unwrap_or(0);
    let signal = fields.signal("change_signal");
    let part = fields.block("change_script");
    if signal.is_some() && mode != 2 {
        fields.refuse("change_signal", "change_signal needs change_mode = \"signal\"", "");
    }
    if part.is_some() && mode != 3 {
        fields.refuse("change_script", "change_script needs change_mode = \"script\"", "");
    }
    match (mode, signal, part) {
        (1, ..) => ChangeMode::Noop,
        (2, Some(signal), _) => ChangeMode::Signal { signal },
        (2, None, _) => {
            fields.refuse(
                "change_mode",
                "change_mode = \"signal\" needs change_signal",
                "write change_signal = \"SIGHUP\"",
            );
            ChangeMode::Noop
        }
        (3, _, Some(part)) => {
            let inner = Fields::of(&part, fields, "change_script", "change_script".to_owned());
            let command = inner.text("command");
            let script = ChangeMode::Script {
                command: inner.needed("command", command, "\"/bin/…\"").unwrap_or_default(),
                args: inner.texts("args").unwrap_or_default(),
                timeout: inner.span("timeout").unwrap_or(Duration::from_secs(5)),
                fail_on_error: inner.flag("fail_on_error").unwrap_or(false),
            };
            inner.finish(&[("run_on_first_render", "a task that has not started cannot run it: use a prestart task")]);
            script
        }
        (3, _, None) => {
            fields.refuse("change_mode", "change_mode = \"script\" needs change_script { }", "");
            ChangeMode::Noop
        }
        _ => ChangeMode::Restart,
    }
}
