//! `moat jail rdr`: ports of the host that lead to jails.

use std::process::ExitCode;

use moat_formats::bastille::{RedirectOptions, redirect};
use moat_model::ErrorKind;
use moat_model::jail::{JailView, Redirect};

use super::args::Words1;
use super::front::Front;
use super::words::Words;
use crate::failure::Failure;

const USAGE: &str = "moat jail rdr [-d IP] [-t ipv4] TARGET tcp|udp HOSTPORT JAILPORT | TARGET list|clear|reset";

/// Adds one, lists them, or ends them.
pub async fn rdr(front: &Front, args: Words1) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, USAGE);
    let (options, target) = options(&mut words)?;
    let jail = front.one(&target).await?;
    let name = jail.spec.name.as_str();
    let words = words.rest();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["list"] => {
            for redirect in &jail.spec.redirects {
                front.say.line(&shown(redirect))?;
            }
        }
        ["clear"] => {
            let why = "clear: redirects hold as long as they are declared; `reset` takes them away";
            return Err(Failure::new(ErrorKind::Unsupported, why));
        }
        ["reset"] => {
            front.client.remove_redirects(name, None).await?;
            front.say.info(&format!("{name}: redirects removed"))?;
        }
        words => add(front, &jail, &asked(&options, words)?).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn add(front: &Front, jail: &JailView, redirect: &Redirect) -> Result<(), Failure> {
    front.client.redirect_to_jail(jail.spec.name.as_str(), redirect).await?;
    front.say.info(&format!("{}: {}", jail.spec.name, shown(redirect)))
}

/// What stood before the target.
#[derive(Debug, Default)]
struct Options {
    interface: Option<String>,
    source: Option<String>,
    destination: Option<String>,
    family: Option<String>,
}

/// Options, up to the target.
fn options(words: &mut Words) -> Result<(Options, String), Failure> {
    let mut options = Options::default();
    loop {
        let word = words.take("TARGET")?;
        let (place, what) = match word.as_str() {
            "-d" | "--destination" => (&mut options.destination, "IP"),
            "-t" | "--type" => (&mut options.family, "ipv4"),
            "-s" | "--source" => (&mut options.source, "any"),
            "-i" | "--interface" => (&mut options.interface, "any"),
            option if option.starts_with('-') => return Err(words.wrong(&format!("{option} is no option of rdr"))),
            _ => return Ok((options, word)),
        };
        *place = Some(words.take(what)?);
    }
}

/// As templates are read: one syntax for both.
fn asked(options: &Options, words: &[&str]) -> Result<Redirect, Failure> {
    let options = RedirectOptions {
        interface: options.interface.as_deref(),
        source: options.source.as_deref(),
        destination: options.destination.as_deref(),
        family: options.family.as_deref(),
    };
    redirect(&options, words).map_err(|refusal| {
        let hint = refusal.fix.unwrap_or_else(|| format!("usage: {USAGE}"));
        Failure::invalid(format!("rdr: {}", refusal.message)).with_hint(hint)
    })
}

/// As it was typed, or would have been.
pub fn shown(redirect: &Redirect) -> String {
    let Redirect { protocol, host_address, host_port, port, count } = redirect;
    let range = |first: u16| match count {
        0 | 1 => first.to_string(),
        more => format!("{first}:{}", first.saturating_add(more - 1)),
    };
    let at = host_address.map(|address| format!("{address} ")).unwrap_or_default();
    format!("{at}{} {} {}", protocol.as_str(), range(*host_port), range(*port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(String, Redirect), Failure> {
        let mut words = Words::new(text.split(' ').map(str::to_owned).collect(), USAGE);
        let (options, target) = options(&mut words)?;
        let words = words.rest();
        let redirect = asked(&options, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok((target, redirect))
    }

    #[test]
    fn redirects_as_bastille_writes_them() {
        let (target, one) = read("web tcp 8080 80").unwrap();
        assert_eq!((target.as_str(), shown(&one).as_str()), ("web", "tcp 8080 80"));
        let (_, range) = read("-d 127.0.0.1 -t ipv4 web udp 8000:8010 9000:*").unwrap();
        assert_eq!((range.count, shown(&range).as_str()), (11, "127.0.0.1 udp 8000:8010 9000:9010"));
        for bad in [
            "-t ipv6 web tcp 1 2",
            "-s 1.2.3.4 web tcp 1 2",
            "-i em0 web tcp 1 2",
            "web icmp 1 2",
            "web tcp 0 1",
            "web tcp 9:8 1",
            "web tcp 1:3 1:2",
            "web tcp 1:3 1",
            "-x web tcp 1 2",
            "web tcp 80",
            "web tcp 80 80 log",
            "web tcp 80 80 more",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
