//! Cases about processes besides the main one.

use std::time::Duration;

use bytes::Bytes;
use moat_model::Exit;
use moat_model::spec::{ExecSpec, PtySize, Signal};
use tokio::time::Instant;

use super::bed::{Bed, finish, plain};
use super::patience::soon;
use super::{Fault, Verdict, ensure};
use crate::guest::{ExecInput, ExecOutput, ExecSession};

async fn say(session: &ExecSession, input: ExecInput) -> Verdict {
    session.input.send(input).await.map_err(|_| Fault::Failed("the exec takes no input".to_owned()))
}

pub async fn pipes(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    let script = "echo out; echo err >&2; head -c 300000 /dev/zero; exit 4";
    let mut session = sandbox.exec(plain(bed.script(script)?)).await?;
    let ran = finish(&mut session).await?;
    ensure(ran.exit == Some(Exit::code(4)), || format!("ended with {:?}", ran.exit))?;
    ensure(ran.stderr == b"err\n", || format!("stderr {:?}", String::from_utf8_lossy(&ran.stderr)))?;
    let (line, zeros) = ran.stdout.split_at_checked(4).unwrap_or_default();
    ensure(line == b"out\n" && zeros.len() == 300_000 && zeros.iter().all(|b| *b == 0), || {
        format!("stdout of {} bytes beginning with {line:?}", ran.stdout.len())
    })
}

pub async fn stdin(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    let mut session = sandbox.exec(ExecSpec { stdin: true, ..plain(bed.script("cat; echo done")?) }).await?;
    // More than any pipe holds, so that flow control is met; read while writing.
    let piece = Bytes::from(vec![b'x'; 32 << 10]);
    let input = session.input.clone();
    let writer = tokio::spawn(async move {
        for _ in 0..16 {
            if input.send(ExecInput::Stdin(piece.clone())).await.is_err() {
                return;
            }
        }
        drop(input.send(ExecInput::CloseStdin).await);
    });
    let ran = finish(&mut session).await?;
    writer.abort();
    ensure(ran.stdout.len() == (512 << 10) + 5 && ran.stdout.ends_with(b"xdone\n"), || {
        format!("stdout of {} bytes", ran.stdout.len())
    })?;
    ensure(ran.exit == Some(Exit::code(0)), || format!("ended with {:?}", ran.exit))
}

pub async fn no_stdin(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    let mut session = sandbox.exec(plain(bed.script("cat; echo done")?)).await?;
    let ran = finish(&mut session).await?;
    ensure(ran.stdout == b"done\n", || format!("stdout {:?}", String::from_utf8_lossy(&ran.stdout)))
}

pub async fn exit_codes(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    for (script, exit) in [("exit 0", Exit::code(0)), ("exit 255", Exit::code(255)), ("kill -KILL $$", Exit::signal(9))]
    {
        let mut session = sandbox.exec(plain(bed.script(script)?)).await?;
        let ran = finish(&mut session).await?;
        ensure(ran.exit == Some(exit), || format!("{script} was reported as {:?}", ran.exit))?;
    }
    Ok(())
}

pub async fn timeout(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    let script = if bed.profile.full_shell { "sleep 3333 & sleep 3333" } else { "sleep 3333" };
    let limit = Duration::from_millis(300);
    let begun = Instant::now();
    let mut session = sandbox.exec(ExecSpec { timeout: Some(limit), ..plain(bed.script(script)?) }).await?;
    let ran = finish(&mut session).await?;
    ensure(ran.timed_out, || format!("ended with {:?}, not by its time limit", ran.exit))?;
    ensure(begun.elapsed() < soon() / 3, || format!("took {:?}", begun.elapsed()))?;
    sandbox.until_gone("3333").await
}

pub async fn hang_up(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    let script = if bed.profile.full_shell { "echo up; sleep 4444 & sleep 4444" } else { "echo up; sleep 4444" };
    let mut session = sandbox.exec(plain(bed.script(script)?)).await?;
    let first = tokio::time::timeout(soon(), session.output.recv()).await;
    ensure(matches!(first, Ok(Some(ExecOutput::Data(..)))), || format!("said {first:?}"))?;
    drop(session);
    sandbox.until_gone("4444").await
}

pub async fn signal(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    let mut session = sandbox.exec(plain(bed.script("echo up; sleep 1000")?)).await?;
    let first = tokio::time::timeout(soon(), session.output.recv()).await;
    ensure(matches!(first, Ok(Some(ExecOutput::Data(..)))), || format!("said {first:?}"))?;
    say(&session, ExecInput::Signal(Signal::TERM)).await?;
    let ran = finish(&mut session).await?;
    let by_signal = ran.exit.is_some_and(|exit| exit.signal == Some(15) || exit.code == 143);
    ensure(by_signal, || format!("ended with {:?}", ran.exit))
}

pub async fn terminal(bed: &Bed) -> Verdict {
    bed.needs_full_shell()?;
    let sandbox = bed.idle().await?;
    let script = "test -t 0 && test -t 1 && stty size; read line; echo \"got $line\"; stty size";
    let spec = ExecSpec { pty: Some(PtySize { rows: 24, cols: 80 }), stdin: true, ..plain(bed.script(script)?) };
    let mut session = sandbox.exec(spec).await?;
    let first = tokio::time::timeout(soon(), session.output.recv()).await;
    ensure(matches!(&first, Ok(Some(ExecOutput::Data(_, bytes))) if bytes.starts_with(b"24 80")), || {
        format!("said {first:?}")
    })?;
    say(&session, ExecInput::Resize(PtySize { rows: 30, cols: 100 })).await?;
    say(&session, ExecInput::Stdin(Bytes::from_static(b"word\n"))).await?;
    let ran = finish(&mut session).await?;
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    ensure(text.contains("got word") && text.contains("30 100"), || format!("said {text:?}"))
}

pub async fn many(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    let mut sessions = Vec::new();
    for n in 0..20 {
        sessions.push((n, sandbox.exec(plain(bed.script(&format!("sleep 0.1; echo {n}; exit {n}"))?)).await?));
    }
    for (n, mut session) in sessions {
        let ran = finish(&mut session).await?;
        let wanted = format!("{n}\n").into_bytes();
        ensure(ran.stdout == wanted && ran.exit == Some(Exit::code(n)), || format!("exec {n}: {ran:?}"))?;
    }
    Ok(())
}
