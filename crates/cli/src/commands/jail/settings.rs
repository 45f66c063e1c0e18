//! What stands beside a jail's files: properties, labels, limits, mounts, redirects, watched services.

use std::path::PathBuf;
use std::process::ExitCode;

use moat_formats::bastille::mount as mounted;
use moat_model::ErrorKind;
use moat_model::jail::property::{self, Property, Setting, Supported};
use moat_model::jail::target::Reach;
use moat_model::jail::{ChangeJail, JailLimit, JailView, RemoveLimit, RemoveMount};
use serde_json::{Value, json};

use super::args::{AutoWords, LimitsArgs, Words1};
use super::create::tag;
use super::front::Front;
use super::say::Form;
use super::words::Words;
use crate::failure::Failure;

const DONE: ExitCode = ExitCode::SUCCESS;

/// Properties, one at a time.
pub async fn config(front: &Front, args: Words1) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail config TARGET get|set|add|remove PROPERTY [VALUE]");
    let (target, verb, property) = (words.take("TARGET")?, words.take("get, set or remove")?, words.take("PROPERTY")?);
    let jails = front.several(&target, Reach::Any).await?;
    let change = match verb.as_str() {
        "get" => {
            words.end()?;
            return get(front, &jails, &property).await;
        }
        "set" | "add" => {
            let (property, value) = match property.split_once('=') {
                Some((property, value)) => (property.to_owned(), value.to_owned()),
                None => (property, words.maybe().unwrap_or_default()),
            };
            words.end()?;
            set(&property, &value)?
        }
        "remove" | "delete" => {
            words.end()?;
            unset(&property)?
        }
        other => return Err(words.wrong(&format!("{other:?} is none of get, set, add and remove"))),
    };
    front
        .each(&jails, async |jail: &JailView| {
            if change != ChangeJail::default() {
                front.client.change_jail(jail.spec.name.as_str(), &change).await?;
            }
            let later = change.address.is_some() || !change.properties.is_empty();
            if later && super::front::is_up(jail) {
                front.say.info(&format!("it holds from the next start: `moat jail restart {}`", jail.spec.name))?;
            }
            Ok(DONE)
        })
        .await
}

/// A property and its value as a change of the jail.
pub fn set(property: &str, value: &str) -> Result<ChangeJail, Failure> {
    let setting = property::setting(property, value).map_err(|error| Failure::invalid(error.to_string()))?;
    let mut change = ChangeJail::default();
    match setting {
        Setting::Boot(boot) => change.boot = Some(boot),
        Setting::Depend(jails) => change.depend = Some(jails.into_iter().collect()),
        Setting::Priority(priority) => change.priority = Some(priority),
        Setting::Address(address) => change.address = Some(address.to_string()),
        Setting::Hostname(name) => drop(change.properties.insert("host.hostname".to_owned(), Some(name))),
        Setting::Holds => {}
    }
    Ok(change)
}

fn unset(property: &str) -> Result<ChangeJail, Failure> {
    let supported = property::unsetting(property).map_err(|error| Failure::invalid(error.to_string()))?;
    let mut change = ChangeJail::default();
    match supported {
        Supported::Boot => change.boot = Some(true),
        Supported::Depend => change.depend = Some(Vec::new()),
        Supported::Priority => change.priority = Some(moat_model::jail::PRIORITY_DEFAULT),
        Supported::Hostname => drop(change.properties.insert("host.hostname".to_owned(), None)),
        // Refused before.
        Supported::Address => {}
    }
    Ok(change)
}

/// What a property is: `not set` where it has no value.
fn value_of(jail: &JailView, name: &str) -> Result<String, Failure> {
    let spec = &jail.spec;
    let on = |on: bool| if on { "on" } else { "off" }.to_owned();
    let value = match property::property(name) {
        Property::Supported(Supported::Boot) => on(spec.boot),
        Property::Supported(Supported::Priority) => spec.priority.to_string(),
        Property::Supported(Supported::Depend) => {
            spec.depend.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ")
        }
        Property::Supported(Supported::Hostname) => {
            spec.properties.get("host.hostname").cloned().unwrap_or_else(|| spec.name.to_string())
        }
        Property::Supported(Supported::Address) => {
            spec.network.address.map(|address| address.to_string()).unwrap_or_default()
        }
        Property::Holds { values, .. } => {
            let flag = values.first().is_some_and(|first| *first == "1" || *first == "on");
            if flag { "enabled".to_owned() } else { values.first().copied().unwrap_or_default().to_owned() }
        }
        Property::NotHere { .. } => String::new(),
        Property::Unknown => return Err(Failure::invalid(format!("property {name:?}: no such property"))),
    };
    Ok(if value.is_empty() { "not set".to_owned() } else { value })
}

async fn get(front: &Front, jails: &[JailView], property: &str) -> Result<ExitCode, Failure> {
    if front.say.form == Form::Text {
        return front
            .each(jails, async |jail: &JailView| front.say.line(&value_of(jail, property)?).map(|()| DONE))
            .await;
    }
    let shown = jails.iter().map(|jail| {
        Ok::<Value, Failure>(json!({"jid": jail.number, "name": jail.spec.name, property: value_of(jail, property)?}))
    });
    front.say.jails(shown.collect::<Result<_, _>>()?).map(|()| DONE)
}

/// Labels.
pub async fn tags(front: &Front, args: Words1) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail tags TARGET add|delete TAG,… | TARGET list [TAG]");
    let (target, verb) = (words.take("TARGET")?, words.take("add, delete or list")?);
    let given = words.maybe();
    let jails = front.several(&target, Reach::Any).await?;
    if verb == "list" {
        words.end()?;
        for jail in &jails {
            match &given {
                // The names that have it, and nothing else: for scripts.
                Some(wanted) if jail.spec.tags.iter().any(|tag| tag.as_str() == wanted) => {
                    front.say.line(jail.spec.name.as_str())?;
                }
                Some(_) => {}
                None => {
                    front.say.heading(jail.spec.name.as_str())?;
                    for tag in &jail.spec.tags {
                        front.say.line(tag.as_str())?;
                    }
                }
            }
        }
        return Ok(DONE);
    }
    let list = given.ok_or_else(|| words.wrong("TAG,… is missing"))?;
    let list = list.split(',').filter(|text| !text.is_empty()).map(tag).collect::<Result<Vec<_>, _>>()?;
    let change = match verb.as_str() {
        "add" => ChangeJail { add_tags: list, ..ChangeJail::default() },
        "delete" | "remove" => ChangeJail { remove_tags: list, ..ChangeJail::default() },
        other => return Err(words.wrong(&format!("{other:?} is none of add, delete and list"))),
    };
    words.end()?;
    front
        .each(&jails, async |jail: &JailView| {
            front.client.change_jail(jail.spec.name.as_str(), &change).await?;
            Ok(DONE)
        })
        .await
}

/// Bounds.
pub async fn limits(front: &Front, args: LimitsArgs) -> Result<ExitCode, Failure> {
    if args.log_too {
        return Err(Failure::new(ErrorKind::Unsupported, "-l: nothing is logged when a limit is met; leave it out"));
    }
    let usage = "moat jail limits TARGET add KEY VALUE | remove KEY | clear | reset | list [active] | stats";
    let mut words = Words::new(args.words, usage);
    let (target, verb) = (words.take("TARGET")?, words.take("add, remove, reset, list or stats")?);
    let (key, value) = (words.maybe(), words.maybe());
    let jails = front.several(&target, Reach::Any).await?;
    let missing = |what: &str| Failure::invalid(format!("{what} is missing")).with_hint(format!("usage: {usage}"));
    front
        .each(&jails, async |jail: &JailView| {
            let name = jail.spec.name.as_str();
            if args.auto {
                front.up(jail, true).await?;
            }
            match (verb.as_str(), key.clone(), value.clone()) {
                ("add", Some(resource), Some(value)) => {
                    let limit = JailLimit { resource, value };
                    front.client.limit_jail(name, &limit).await?;
                    front.say.info(&format!("{name}: {} is {} at most", limit.resource, limit.value))?;
                }
                ("add", ..) => return Err(missing("KEY VALUE")),
                ("remove", Some(resource), None) => {
                    front.client.unlimit_jail(name, &RemoveLimit { resource: Some(resource) }).await?;
                }
                ("remove", ..) => return Err(missing("KEY")),
                ("reset", None, _) => drop(front.client.unlimit_jail(name, &RemoveLimit::default()).await?),
                ("clear", None, _) => {
                    let why = "clear: limits hold as long as they are declared; `reset` takes them away";
                    return Err(Failure::new(ErrorKind::Unsupported, why));
                }
                ("list", None, _) => {
                    for limit in &jail.spec.limits {
                        front.say.line(&format!("{}={}", limit.resource, limit.value))?;
                    }
                }
                ("list", Some(active), None) if active == "active" => {
                    let id = front.up(jail, false).await?;
                    let limits = serde_json::to_value(front.client.sandbox(&id).await?)?;
                    front.say.json(limits.get("limits").unwrap_or(&Value::Null))?;
                }
                ("stats", None, _) => {
                    let id = front.up(jail, false).await?;
                    front.say.json(&serde_json::to_value(front.client.sandbox_stats(&id).await?)?)?;
                }
                (other, ..) => {
                    return Err(missing("one of add, remove, reset, list and stats")
                        .with_hint(format!("{other:?} is not understood; usage: {usage}")));
                }
            }
            Ok(DONE)
        })
        .await
}

/// A path of the host inside.
pub async fn mount(front: &Front, args: AutoWords) -> Result<ExitCode, Failure> {
    let usage = "moat jail mount TARGET HOSTPATH JAILPATH [nullfs OPTIONS 0 0]";
    let mut words = Words::new(args.words, usage);
    let target = words.take("TARGET")?;
    let rest = words.rest();
    let request = mounted(&rest.iter().map(String::as_str).collect::<Vec<_>>()).map_err(|refusal| {
        let hint = refusal.fix.unwrap_or_else(|| format!("usage: {usage}"));
        Failure::invalid(format!("mount: {}", refusal.message)).with_hint(hint)
    })?;
    let (host, inside) = (rest.first().cloned().unwrap_or_default(), request.target.display());
    let jails = front.several(&target, Reach::Any).await?;
    front
        .each(&jails, async |jail: &JailView| {
            front.client.mount_in_jail(jail.spec.name.as_str(), &request).await?;
            front.say.info(&format!("mounted: {host} -> {inside}{}", later(jail)))?;
            Ok(DONE)
        })
        .await
}

/// Mounts are made when a jail starts.
fn later(jail: &JailView) -> String {
    if super::front::is_up(jail) {
        format!("; it is there from the next start: `moat jail restart {}`", jail.spec.name)
    } else {
        String::new()
    }
}

/// No longer.
pub async fn umount(front: &Front, args: AutoWords) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail umount TARGET JAILPATH");
    let (target, inside) = (words.take("TARGET")?, words.take("JAILPATH")?);
    words.end()?;
    let jails = front.several(&target, Reach::Any).await?;
    let request = RemoveMount { target: PathBuf::from(&inside) };
    front
        .each(&jails, async |jail: &JailView| {
            front.client.unmount_in_jail(jail.spec.name.as_str(), &request).await?;
            front.say.info(&format!("unmounted: {inside}{}", later(jail)))?;
            Ok(DONE)
        })
        .await
}

/// Services that are started again when they are found down.
pub async fn monitor(front: &Front, args: Words1) -> Result<ExitCode, Failure> {
    let usage = "moat jail monitor enable|disable|status | TARGET add|delete SERVICE,… | TARGET [list [SERVICE]]";
    let mut words = Words::new(args.words, usage);
    let target = words.take("TARGET")?;
    let verb = words.maybe();
    if verb.is_none() && matches!(target.as_str(), "enable" | "status") {
        front.say.info("services are looked after by each jail's own init, all the time")?;
        return Ok(DONE);
    }
    if verb.is_none() && target == "disable" {
        let why = "monitor disable: take services away one by one, `moat jail monitor ALL delete SERVICE`";
        return Err(Failure::new(ErrorKind::Unsupported, why));
    }
    let given = words.maybe();
    let jails = front.several(&target, Reach::Any).await?;
    let verb = verb.unwrap_or_else(|| "list".to_owned());
    if verb == "list" {
        words.end()?;
        return front
            .each(&jails, async |jail: &JailView| {
                for service in &jail.spec.watched {
                    if given.as_ref().is_none_or(|wanted| wanted == service) {
                        front.say.line(service)?;
                    }
                }
                Ok(DONE)
            })
            .await;
    }
    let services = given.ok_or_else(|| words.wrong("SERVICE,… is missing"))?;
    let services: Vec<_> = services.split(',').filter(|text| !text.is_empty()).map(str::to_owned).collect();
    let change = match verb.as_str() {
        "add" => ChangeJail { watch: services, ..ChangeJail::default() },
        "delete" | "remove" => ChangeJail { unwatch: services, ..ChangeJail::default() },
        other => return Err(words.wrong(&format!("{other:?} is none of add, delete and list"))),
    };
    words.end()?;
    front
        .each(&jails, async |jail: &JailView| {
            front.client.change_jail(jail.spec.name.as_str(), &change).await?;
            Ok(DONE)
        })
        .await
}
