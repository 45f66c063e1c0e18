//! `moat jail list`.

use std::process::ExitCode;

use moat_model::jail::target::Reach;
use moat_model::jail::{JailState, JailView};
use serde_json::{Map, Value};

use super::args::ListArgs;
use super::front::{Front, is_up};
use super::keep;
use super::rdr;
use super::say::Form;
use crate::failure::Failure;

const DONE: ExitCode = ExitCode::SUCCESS;

/// One column: its heading, and what stands below it; several values take several lines.
type Column = (&'static str, fn(&JailView) -> Vec<String>);

const JID: Column = ("JID", |jail| vec![jail.number.map(|number| number.to_string()).unwrap_or_default()]);
const NAME: Column = ("NAME", |jail| vec![jail.spec.name.to_string()]);
const BOOT: Column = ("BOOT", |jail| vec![if jail.spec.boot { "on" } else { "off" }.to_owned()]);
const PRIO: Column = ("PRIO", |jail| vec![jail.spec.priority.to_string()]);
const STATE: Column = ("STATE", |jail| vec![state(jail)]);
const TYPE: Column = ("TYPE", |jail| vec![jail.spec.kind.to_string()]);
const ADDRESS: Column =
    ("IP ADDRESS", |jail| vec![jail.spec.network.address.map(|ip| ip.to_string()).unwrap_or_default()]);
const PORTS: Column = ("PORTS", |jail| jail.spec.redirects.iter().map(rdr::shown).collect());
const RELEASE: Column =
    ("RELEASE", |jail| vec![jail.spec.release.as_ref().map(ToString::to_string).unwrap_or_default()]);
const TAGS: Column = ("TAGS", |jail| vec![jail.spec.tags.iter().map(|tag| tag.as_str()).collect::<Vec<_>>().join(",")]);
const HOSTNAME: Column = ("HOSTNAME", |jail| {
    vec![jail.spec.properties.get("host.hostname").cloned().unwrap_or_else(|| jail.spec.name.to_string())]
});
const PATH: Column = ("PATH", |jail| vec![jail.path.clone()]);

const USUAL: [Column; 10] = [JID, NAME, BOOT, PRIO, STATE, TYPE, ADDRESS, PORTS, RELEASE, TAGS];
const ALL: [Column; 12] = [JID, NAME, BOOT, PRIO, STATE, TYPE, ADDRESS, PORTS, RELEASE, TAGS, HOSTNAME, PATH];

fn state(jail: &JailView) -> String {
    match &jail.state {
        JailState::Up => "Up".to_owned(),
        JailState::Down { .. } => "Down".to_owned(),
        JailState::Busy { doing } => format!("Busy ({doing})"),
    }
}

/// Lists jails, or what belongs to them.
pub async fn list(front: &Front, args: ListArgs) -> Result<ExitCode, Failure> {
    let mut words = args.words.into_iter();
    let what = words.next();
    if words.next().is_some() {
        return Err(Failure::invalid("list: one word at most").with_hint(
            "all, ip, path, port, state, type, boot, prio, jails, releases, templates, limits, snapshots, or a target",
        ));
    }
    let mut jails = match what.as_deref() {
        Some(word) if !is_word(word) => front.several(word, Reach::Any).await?,
        Some("releases" | "release" | "templates") => Vec::new(),
        _ => front.jails().await?,
    };
    jails.retain(|jail| (!args.up || is_up(jail)) && (!args.down || !is_up(jail)));
    match what.as_deref() {
        Some("releases") => {
            let releases = front.client.releases().await?;
            names(front, releases.releases.iter().map(|release| release.name.to_string()))
        }
        Some("templates") => {
            let templates = front.client.jail_templates().await?.templates;
            names(front, templates.iter().map(|template| template.name.to_string()))
        }
        Some("jails" | "jail") => names(front, jails.iter().map(|jail| jail.spec.name.to_string())),
        Some("snapshots" | "snapshot") => keep::list(front, &jails).await,
        Some("limits" | "limit") => {
            for jail in &jails {
                for limit in &jail.spec.limits {
                    front.say.line(&format!("{} {}={}", jail.spec.name, limit.resource, limit.value))?;
                }
            }
            Ok(DONE)
        }
        Some("all") => table(front, &ALL, &jails),
        Some("ip") => table(front, &[JID, NAME, ADDRESS], &jails),
        Some("path") => table(front, &[JID, NAME, PATH], &jails),
        Some("port" | "ports") => table(front, &[JID, NAME, PORTS], &jails),
        Some("state") => table(front, &[JID, NAME, STATE], &jails),
        Some("type") => table(front, &[JID, NAME, TYPE], &jails),
        Some("boot") => table(front, &[JID, NAME, BOOT], &jails),
        Some("prio" | "priority") => table(front, &[JID, NAME, PRIO], &jails),
        _ => table(front, &USUAL, &jails),
    }
}

/// Whether a word says what is listed. A jail that is called so is found with `list all`.
fn is_word(word: &str) -> bool {
    const WORDS: [&str; 20] = [
        "all",
        "ip",
        "path",
        "port",
        "ports",
        "state",
        "type",
        "boot",
        "prio",
        "priority",
        "jails",
        "jail",
        "releases",
        "release",
        "templates",
        "limits",
        "limit",
        "snapshots",
        "snapshot",
        "-",
    ];
    WORDS.contains(&word)
}

fn names(front: &Front, names: impl Iterator<Item = String>) -> Result<ExitCode, Failure> {
    if front.say.form != Form::Text {
        let names: Vec<Value> = names.map(Value::String).collect();
        return front.say.json(&Value::Array(names)).map(|()| DONE);
    }
    for name in names {
        front.say.line(&name)?;
    }
    Ok(DONE)
}

fn table(front: &Front, columns: &[Column], jails: &[JailView]) -> Result<ExitCode, Failure> {
    if front.say.form == Form::Text {
        front.say.line(&text(columns, jails))?;
    } else {
        front.say.json(&json(columns, jails))?;
    }
    Ok(DONE)
}

/// An array of objects with the headings as members; what is not set is null.
fn json(columns: &[Column], jails: &[JailView]) -> Value {
    let object = |jail: &JailView| {
        let members = columns.iter().map(|(heading, values)| {
            let values = values(jail);
            let value = if values.iter().all(String::is_empty) { Value::Null } else { values.join(",").into() };
            ((*heading).to_owned(), value)
        });
        Value::Object(members.collect::<Map<_, _>>())
    };
    Value::Array(jails.iter().map(object).collect())
}

/// Columns as wide as what stands in them, two blanks between. A jail takes as many lines as its longest list.
fn text(columns: &[Column], jails: &[JailView]) -> String {
    let mut rows: Vec<Vec<String>> = vec![columns.iter().map(|(heading, _)| (*heading).to_owned()).collect()];
    for jail in jails {
        let cells: Vec<Vec<String>> = columns.iter().map(|(_, values)| values(jail)).collect();
        let lines = cells.iter().map(Vec::len).max().unwrap_or(1).max(1);
        for line in 0..lines {
            let cell = |values: &Vec<String>| match values.get(line).filter(|text| !text.is_empty()) {
                Some(text) => text.clone(),
                None if line == 0 => "-".to_owned(),
                None => String::new(),
            };
            rows.push(cells.iter().map(cell).collect());
        }
    }
    let width =
        |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|text| text.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
