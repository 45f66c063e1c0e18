//! Starting, stopping, ending, and what else is done to a whole jail.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use moat_model::ErrorKind;
use moat_model::jail::target::Reach;
use moat_model::jail::{
    Bootstrap, CloneJail, DestroyJail, JailName, JailView, ReleaseName, ReleaseSource, RenameJail, StopJail,
    TemplateName, UpgradeJail,
};

use super::args::{AutoWords, ConvertArgs, DestroyArgs, LiveWords, RestartArgs, StartArgs, StopArgs};
use super::front::{Front, is_up};
use super::words::Words;
use crate::failure::Failure;

/// Starts jails, the lowest priority first.
pub async fn start(front: &Front, args: StartArgs) -> Result<ExitCode, Failure> {
    let front = &front.louder(args.verbose);
    let mut words = Words::new(args.words, "moat jail start [-b -d SECONDS -v] TARGET");
    let target = words.take("TARGET")?;
    words.end()?;
    let mut jails = front.several(&target, Reach::Any).await?;
    jails.retain(|jail| !args.boot || jail.spec.boot);
    let pause = Pause::new(args.delay);
    front
        .each(&jails, async |jail: &JailView| {
            pause.take().await;
            let name = jail.spec.name.as_str();
            // One before it may have started it already: what it depends on comes first.
            if is_up(&front.client.jail(name).await?) {
                if jails.len() == 1 {
                    return Err(Failure::new(ErrorKind::Conflict, format!("jail {name} is already running")));
                }
                front.say.info(&format!("{name}: is already running"))?;
                return Ok(ExitCode::SUCCESS);
            }
            front.follow(front.client.start_jail(name).await?).await?;
            front.say.info(&format!("{name}: created"))?;
            Ok(ExitCode::SUCCESS)
        })
        .await
}

/// Stops jails, the highest priority first.
pub async fn stop(front: &Front, args: StopArgs) -> Result<ExitCode, Failure> {
    let front = &front.louder(args.verbose);
    let mut words = Words::new(args.words, "moat jail stop [-f -v] TARGET");
    let target = words.take("TARGET")?;
    words.end()?;
    let mut jails = front.several(&target, Reach::Any).await?;
    jails.reverse();
    front
        .each(&jails, async |jail: &JailView| {
            let name = jail.spec.name.as_str();
            if !is_up(&front.client.jail(name).await?) {
                if jails.len() == 1 {
                    return Err(Failure::new(ErrorKind::Conflict, format!("jail {name} is not running")));
                }
                front.say.info(&format!("{name}: is not running"))?;
                return Ok(ExitCode::SUCCESS);
            }
            front.follow(front.client.stop_jail(name, &StopJail { force: args.force }).await?).await?;
            front.say.info(&format!("{name}: removed"))?;
            Ok(ExitCode::SUCCESS)
        })
        .await
}

/// Stops and starts jails.
pub async fn restart(front: &Front, args: RestartArgs) -> Result<ExitCode, Failure> {
    let front = &front.louder(args.verbose);
    let mut words = Words::new(args.words, "moat jail restart [-b -d SECONDS -i -v] TARGET");
    let target = words.take("TARGET")?;
    words.end()?;
    let mut jails = front.several(&target, Reach::Any).await?;
    jails.retain(|jail| (!args.boot || jail.spec.boot) && (!args.ignore || is_up(jail)));
    let pause = Pause::new(args.delay);
    front
        .each(&jails, async |jail: &JailView| {
            pause.take().await;
            let name = jail.spec.name.as_str();
            front.follow(front.client.restart_jail(name).await?).await?;
            front.say.info(&format!("{name}: restarted"))?;
            Ok(ExitCode::SUCCESS)
        })
        .await
}

/// What the user asked to wait between one jail and the next.
struct Pause {
    span: Duration,
    first: std::cell::Cell<bool>,
}

impl Pause {
    fn new(seconds: Option<u16>) -> Self {
        Self { span: Duration::from_secs(seconds.unwrap_or(0).into()), first: std::cell::Cell::new(true) }
    }

    async fn take(&self) {
        if !self.first.replace(false) && !self.span.is_zero() {
            tokio::time::sleep(self.span).await;
        }
    }
}

/// Destroys jails by their whole names, a release, or a template.
pub async fn destroy(front: &Front, args: DestroyArgs) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail destroy [-a -c -f -y] JAIL|RELEASE|TEMPLATE");
    let target = words.take("JAIL, RELEASE or TEMPLATE")?;
    words.end()?;
    // Nothing else has a slash in its name.
    if let Ok(template) = TemplateName::parse(&target) {
        confirm(args.yes, &format!("destroy template {template}"))?;
        front.client.delete_jail_template(&template).await?;
        front.say.info(&format!("template {template}: destroyed; jails it was applied to stay as they are"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut jails = match front.several(&target, Reach::Exact).await {
        Ok(jails) => jails,
        Err(failure) => {
            let releases = front.client.releases().await?.releases;
            let Some(release) = releases.iter().find(|release| release.name.as_str() == target) else {
                return Err(failure);
            };
            confirm(args.yes, &format!("destroy release {target}"))?;
            front.client.delete_release(release.name.as_str()).await?;
            let kept = if args.cache { "; its image stays in the node's store until `moat image gc`" } else { "" };
            front.say.info(&format!("release {target}: destroyed{kept}"))?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    jails.reverse();
    front
        .each(&jails, async |jail: &JailView| {
            let name = jail.spec.name.as_str();
            if is_up(jail) && !args.auto && !args.force {
                return Err(Failure::new(ErrorKind::Conflict, format!("jail {name} is running"))
                    .with_hint("use -a (--auto) to stop it first, or -f (--force) to kill it"));
            }
            confirm(args.yes, &format!("destroy jail {name} and all its files"))?;
            if args.auto && is_up(jail) && !args.force {
                front.down(jail, true).await?;
            }
            front.client.destroy_jail(name, &DestroyJail { force: args.force }).await?;
            front.say.info(&format!("{name}: destroyed"))?;
            Ok(ExitCode::SUCCESS)
        })
        .await
}

/// Asks, where there is somebody to ask.
pub fn confirm(yes: bool, doing: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(
            Failure::invalid(format!("{doing}: nobody can be asked here")).with_hint("-y does it without asking")
        );
    }
    let mut err = std::io::stderr();
    write!(err, "Really {doing}? [y/N] ").and_then(|()| err.flush())?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(ErrorKind::Conflict, format!("{doing}: not confirmed, nothing was done"))),
    }
}

/// Another jail of a jail's files.
pub async fn clone(front: &Front, args: LiveWords) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail clone [-a|-l] TARGET NEW [IP]");
    let jail = front.one(&words.take("TARGET")?).await?;
    let name = name(&words.take("NEW")?)?;
    let address = words.maybe();
    words.end()?;
    let request = CloneJail { name: name.clone(), address };
    front.follow(front.client.clone_jail(jail.spec.name.as_str(), &request).await?).await?;
    front.say.info(&format!("cloned '{}' to '{name}'", jail.spec.name))?;
    if args.auto {
        front.say.info("-a: nothing had to be stopped for it")?;
    }
    if is_up(&jail) && !args.live {
        front.say.info(&format!("'{}' stayed up; '{name}' is down: `moat jail start {name}`", jail.spec.name))?;
    }
    if args.live {
        front.follow(front.client.start_jail(name.as_str()).await?).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Another name.
pub async fn rename(front: &Front, args: AutoWords) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail rename [-a] TARGET NEW");
    let jail = front.one(&words.take("TARGET")?).await?;
    let new = name(&words.take("NEW")?)?;
    words.end()?;
    let was_up = front.down(&jail, args.auto).await?;
    let renamed = front.client.rename_jail(jail.spec.name.as_str(), &RenameJail { name: new.clone() }).await;
    let called = if renamed.is_ok() { new.as_str() } else { jail.spec.name.as_str() };
    front.back(called, was_up).await?;
    renamed?;
    front.say.info(&format!("renamed '{}' to '{new}'", jail.spec.name))?;
    Ok(ExitCode::SUCCESS)
}

/// Thin to thick, or a release of what it is.
pub async fn convert(front: &Front, args: ConvertArgs) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail convert [-a -y] TARGET [NEWRELEASE]");
    let jail = front.one(&words.take("TARGET")?).await?;
    let new = words.maybe().map(|word| release(&word)).transpose()?;
    words.end()?;
    let name = &jail.spec.name;
    if let Some(new) = &new
        && front.client.releases().await?.releases.iter().any(|there| there.name == *new)
    {
        // Before anything is stopped for it.
        let why = format!("convert: release {new} is there already; name another, or destroy it");
        return Err(Failure::new(ErrorKind::Conflict, why));
    }
    let what = new.as_ref().map_or(format!("make jail {name} thick"), |new| format!("make {new} of jail {name}"));
    confirm(args.yes, &what)?;
    let was_up = front.down(&jail, args.auto).await?;
    let events = match &new {
        None => front.client.convert_jail(name.as_str()).await,
        Some(new) => {
            let source = Some(ReleaseSource::Jail(name.clone()));
            front.client.make_release(&Bootstrap { name: new.clone(), source, update: false }).await
        }
    };
    let converted = match events {
        Ok(events) => front.follow(events).await,
        Err(error) => Err(error.into()),
    };
    front.back(name.as_str(), was_up).await?;
    converted?;
    front.say.info(&new.map_or(format!("{name}: is thick"), |new| format!("{new}: is a release, made of '{name}'")))?;
    Ok(ExitCode::SUCCESS)
}

/// A release made anew.
pub async fn update(front: &Front, args: AutoWords) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail update RELEASE");
    let target = words.take("RELEASE")?;
    words.end()?;
    let release = match release(&target) {
        Ok(name) if front.client.releases().await?.releases.iter().any(|there| there.name == name) => name,
        _ => {
            let jail = front.one(&target).await?;
            let of = jail.spec.release.map(|release| release.to_string()).unwrap_or_default();
            let why = format!("update: {target} is a jail; its own packages are updated with `moat jail pkg {target}`");
            return Err(Failure::new(ErrorKind::Unsupported, why)
                .with_hint(format!("`moat jail update {of}` fetches its release again")));
        }
    };
    let request = Bootstrap { name: release, source: None, update: true };
    front.follow(front.client.make_release(&request).await?).await?;
    front.say.info(&format!("release {target}: is up to date; thin jails get it at their next start"))?;
    Ok(ExitCode::SUCCESS)
}

/// Another release.
pub async fn upgrade(front: &Front, args: AutoWords) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail upgrade [-a] TARGET RELEASE");
    let jail = front.one(&words.take("TARGET")?).await?;
    let to = words.take("RELEASE")?;
    words.end()?;
    if to == "install" {
        front.say.info("nothing is left to install: an upgrade is whole when it is done")?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = jail.spec.name.as_str();
    let request = UpgradeJail { release: release(&to)? };
    let was_up = front.down(&jail, args.auto).await?;
    let upgraded = match front.client.upgrade_jail(name, &request).await {
        Ok(events) => front.follow(events).await,
        Err(error) => Err(error.into()),
    };
    front.back(name, was_up).await?;
    upgraded?;
    front.say.info(&format!("{name}: is on {to}"))?;
    Ok(ExitCode::SUCCESS)
}

/// A jail's name, as typed.
pub fn name(text: &str) -> Result<JailName, Failure> {
    JailName::parse(text).map_err(|error| Failure::invalid(error.to_string()))
}

/// A release's name, as typed.
pub fn release(text: &str) -> Result<ReleaseName, Failure> {
    ReleaseName::parse(text).map_err(|error| Failure::invalid(error.to_string()))
}
