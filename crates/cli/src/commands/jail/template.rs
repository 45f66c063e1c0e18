//! `moat jail template`.

use std::process::ExitCode;

use moat_model::ErrorKind;
use moat_model::jail::target::Reach;
use moat_model::jail::{ApplyTemplate, JailView, TemplateName};

use super::args::{TemplateArgs, Words1};
use super::create::templates;
use super::front::Front;
use super::words::Words;
use crate::failure::Failure;

/// What was typed, on both sides of the template.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    args: Vec<(String, String)>,
    file: Option<String>,
    dry_run: bool,
    rollback: bool,
}

impl Options {
    fn arg(&mut self, text: &str) -> Result<(), Failure> {
        let (name, value) =
            text.split_once('=').ok_or_else(|| Failure::invalid(format!("--arg {text:?}: NAME=VALUE is needed")))?;
        self.args.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    fn words(&mut self, mut words: Words) -> Result<(), Failure> {
        while let Some(word) = words.maybe() {
            match word.as_str() {
                "--arg" => self.arg(&words.take("NAME=VALUE")?)?,
                "--arg-file" => self.file(words.take("FILE")?),
                "--dry-run" => self.dry_run = true,
                "--rollback" => self.rollback = true,
                other => match (other.strip_prefix("--arg="), other.strip_prefix("--arg-file=")) {
                    (Some(arg), _) => self.arg(arg)?,
                    (_, Some(file)) => self.file(file.to_owned()),
                    _ => return Err(words.wrong(&format!("{other:?} is no option of template"))),
                },
            }
        }
        Ok(())
    }

    /// Only the first counts.
    fn file(&mut self, file: String) {
        self.file.get_or_insert(file);
    }
}

/// Applies a template to jails, one after another.
pub async fn template(front: &Front, args: TemplateArgs) -> Result<ExitCode, Failure> {
    let usage = "moat jail template [-a] TARGET PROJECT/TEMPLATE [--arg NAME=VALUE]… [--arg-file FILE]";
    let mut words = Words::new(args.words, usage);
    let (target, what) = (words.take("TARGET")?, words.take("TEMPLATE")?);
    if target == "convert" {
        let why =
            "template convert: the older form of one file for each hook is read as it is; nothing is to be converted";
        return Err(Failure::new(ErrorKind::Unsupported, why));
    }
    let mut options = Options { file: args.arg_file, dry_run: args.dry_run, rollback: args.rollback, args: Vec::new() };
    for arg in &args.arg {
        options.arg(arg)?;
    }
    options.words(words)?;
    let jails = front.several(&target, Reach::Any).await?;
    let arg_file = match &options.file {
        Some(path) => {
            let path = std::path::Path::new(path);
            Some(std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))?)
        }
        None => None,
    };
    let request = ApplyTemplate {
        template: named(front, &what).await?,
        args: options.args,
        arg_file,
        dry_run: options.dry_run,
        rollback: options.rollback,
    };
    front.each(&jails, async |jail: &JailView| apply(front, jail, &request, args.auto).await).await
}

/// A template by its name; one that is a URL or a directory is brought first.
async fn named(front: &Front, what: &str) -> Result<TemplateName, Failure> {
    if let Ok(name) = TemplateName::parse(what) {
        return Ok(name);
    }
    let mut found = templates(front, what, None, None).await?;
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => Err(Failure::new(ErrorKind::Conflict, format!("{what} has several templates: apply one by its name"))),
    }
}

async fn apply(front: &Front, jail: &JailView, request: &ApplyTemplate, auto: bool) -> Result<ExitCode, Failure> {
    let name = jail.spec.name.as_str();
    if !request.dry_run {
        front.up(jail, auto).await?;
    }
    front.say.info(&format!("applying template: {}...", request.template))?;
    let applied = front.follow(front.client.apply_template(name, request).await?).await?.applied;
    let applied = applied.ok_or_else(|| Failure::internal("template", "the node did not say what it did"))?;
    for note in &applied.notes {
        front.say.warn(note)?;
    }
    if request.dry_run {
        for step in &applied.steps {
            front.say.line(&format!("{}:{}: {}", step.origin, step.line, step.text))?;
        }
    } else {
        front.say.info(&format!("template applied: {}", request.template))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a template can be read, or a release is there.
pub async fn verify(front: &Front, args: Words1) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail verify RELEASE|TEMPLATE");
    let what = words.take("RELEASE or TEMPLATE")?;
    words.end()?;
    if let Ok(template) = TemplateName::parse(&what) {
        return verify_template(front, &template).await;
    }
    let releases = front.client.releases().await?.releases;
    let release = releases.iter().find(|release| release.name.as_str() == what);
    let release = release.ok_or_else(|| Failure::new(ErrorKind::NotFound, format!("no release {what}")))?;
    for layer in &release.layers {
        front.say.line(layer)?;
    }
    front.say.info(&format!("release {what}: {} layers, each kept by its digest", release.layers.len()))?;
    Ok(ExitCode::SUCCESS)
}

/// The hooks of a template and of all it includes; a template that could not be applied is an error that says where.
async fn verify_template(front: &Front, template: &TemplateName) -> Result<ExitCode, Failure> {
    let check = front.client.check_jail_template(template).await?;
    for hook in &check.hooks {
        front.say.line(&format!("{}:{}: {} {}", hook.template, hook.line, hook.verb, hook.text))?;
    }
    for warning in &check.warnings {
        front.say.info(warning)?;
    }
    for missing in &check.missing {
        front.say.info(&format!("{missing} is not here yet: it is fetched when the template is applied"))?;
    }
    front.say.info(&format!("template {template}: ready; `template --dry-run` shows its steps for a jail"))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_may_stand_behind_the_template() {
        let mut options = Options::default();
        let words = ["--arg", "A=1", "--arg=B=x=y", "--arg-file", "f", "--arg-file=g", "--rollback"];
        options.words(Words::new(words.map(str::to_owned).to_vec(), "")).unwrap();
        assert_eq!(options.args, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x=y".to_owned())]);
        assert_eq!(options.file.as_deref(), Some("f"));
        assert!(options.rollback && !options.dry_run);
        for bad in ["--nothing", "word", "--arg=x"] {
            assert!(Options::default().words(Words::new(vec![bad.to_owned()], "")).is_err(), "{bad}");
        }
    }
}
