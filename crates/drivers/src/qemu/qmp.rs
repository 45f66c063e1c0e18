//! A client of QEMU's control protocol: one JSON value in a line, over a Unix socket.
//!
//! QEMU is not believed either, because a guest may have taken it over: lines are bounded, waits are bounded, events are
//! passed over and not kept, an answer counts only with the number of the question.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

/// Longest line that is taken: the longest answer to what we ask is a few KiB.
const LINE_LEN_MAX: usize = 1 << 20;
/// One answer. Its main loop may be busy, on a machine that is busy too.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Most lines before the answer: one that only talks is not waited for.
const LINES_MAX: usize = 4096;
/// Longest text of an error that is told.
const MESSAGE_LEN_MAX: usize = 500;

/// A connection to a QEMU.
#[derive(Debug)]
pub struct Qmp {
    socket: UnixStream,
    received: Vec<u8>,
    asked: u64,
}

/// What may come in a line.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(default, rename = "return")]
    answer: Option<Value>,
    error: Option<Refusal>,
    id: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    #[serde(default)]
    desc: String,
}

impl Qmp {
    /// Connects and greets. Another connection, if there is one, has to end first.
    pub async fn connect(path: &Path) -> Result<Self> {
        let failed = |e| Error::caused_by(ErrorKind::Unavailable, "connect to the machine's monitor", e);
        let socket = UnixStream::connect(path).await.map_err(failed)?;
        Self::greet(socket).await
    }

    /// Over a socket that is connected.
    pub async fn greet(socket: UnixStream) -> Result<Self> {
        let mut qmp = Self { socket, received: Vec::new(), asked: 0 };
        within("greet", async {
            for _ in 0..LINES_MAX {
                if qmp.line("greet").await?.greeting.is_some() {
                    return Ok(());
                }
            }
            Err(nonsense("greet", "it does not greet"))
        })
        .await?;
        qmp.run("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Runs a command and returns what it returns.
    pub async fn run(&mut self, command: &str, arguments: Value) -> Result<Value> {
        within(command, async {
            let text = self.question(command, &arguments);
            self.socket.write_all(text.as_bytes()).await.map_err(|e| lost(command, e))?;
            self.answer(command).await
        })
        .await
    }

    /// Gives it a file under a name.
    pub async fn give(&mut self, name: &str, file: BorrowedFd<'_>) -> Result<()> {
        const COMMAND: &str = "getfd";
        within(COMMAND, async {
            let text = self.question(COMMAND, &json!({ "fdname": name }));
            let sent = send_with(&self.socket, text.as_bytes(), file).await.map_err(|e| lost(COMMAND, e))?;
            let rest = text.as_bytes().get(sent..).unwrap_or_default();
            self.socket.write_all(rest).await.map_err(|e| lost(COMMAND, e))?;
            self.answer(COMMAND).await.map(drop)
        })
        .await
    }

    /// `running`, `paused`, `inmigrate` and so on.
    pub async fn status(&mut self) -> Result<String> {
        let answer = self.run("query-status", json!({})).await?;
        match answer.get("status").and_then(Value::as_str) {
            Some(status) => Ok(status.to_owned()),
            None => Err(nonsense("query-status", "it names no status")),
        }
    }

    fn question(&mut self, command: &str, arguments: &Value) -> String {
        self.asked += 1;
        json!({ "execute": command, "arguments": arguments, "id": self.asked }).to_string() + "\n"
    }

    /// The answer to the last question; whatever else comes before it is an event, or belongs to a question given up.
    async fn answer(&mut self, command: &str) -> Result<Value> {
        for _ in 0..LINES_MAX {
            let line = self.line(command).await?;
            if line.id != Some(self.asked) {
                continue;
            }
            return match (line.answer, line.error) {
                (Some(answer), None) => Ok(answer),
                (_, Some(refusal)) => {
                    let said: String = refusal.desc.chars().filter(|c| !c.is_control()).take(MESSAGE_LEN_MAX).collect();
                    Err(Error::new(ErrorKind::Internal, format!("the machine's monitor refuses {command}: {said}")))
                }
                (None, None) => Err(nonsense(command, "it answers nothing")),
            };
        }
        Err(nonsense(command, "it talks and does not answer"))
    }

    async fn line(&mut self, command: &str) -> Result<Line> {
        loop {
            if let Some(end) = memchr(&self.received) {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|e| nonsense(command, &e.to_string()));
            }
            if self.received.len() >= LINE_LEN_MAX {
                return Err(nonsense(command, "a line without an end"));
            }
            match self.socket.read_buf(&mut self.received).await {
                Ok(0) => return Err(lost(command, io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(e) => return Err(lost(command, e)),
            }
        }
    }
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

/// Sends bytes, at least one, with a descriptor.
async fn send_with(socket: &UnixStream, bytes: &[u8], file: BorrowedFd<'_>) -> io::Result<usize> {
    loop {
        socket.writable().await?;
        let sent = socket.try_io(Interest::WRITABLE, || {
            let descriptors = [file];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::Error::other("no room for a descriptor"));
            }
            Ok(sendmsg(socket.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
        });
        match sent {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
    }
}

fn lost(command: &str, error: io::Error) -> Error {
    Error::caused_by(ErrorKind::Unavailable, format!("tell the machine's monitor: {command}"), error)
}

fn nonsense(command: &str, what: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("the machine's monitor answers {command} with nonsense: {what}"))
}

async fn within<T>(command: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(ANSWER_WITHIN, work).await {
        Ok(result) => result,
        Err(_) => {
            let waited = format!("the machine's monitor did not answer {command} within {} s", ANSWER_WITHIN.as_secs());
            Err(Error::new(ErrorKind::Deadline, waited))
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": []}}"#;

    /// A QEMU that says these lines, the n-th after the n-th question.
    async fn scripted(greeting: &str, script: &[&str]) -> Result<Qmp> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let script: Vec<String> = script.iter().map(|text| (*text).to_owned()).collect();
        let greeting = greeting.to_owned();
        tokio::spawn(async move {
            let mut theirs = BufReader::new(theirs);
            theirs.write_all(greeting.as_bytes()).await.unwrap();
            for text in script {
                let mut question = String::new();
                if theirs.read_line(&mut question).await.unwrap() == 0 {
                    return;
                }
                // Whoever asked may have hung up on what was said before.
                if theirs.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        Qmp::greet(ours).await
    }

    fn greeting() -> String {
        format!("{GREETING}\r\n")
    }

    const READY: &str = "{\"return\": {}, \"id\": 1}\r\n";

    #[tokio::test]
    async fn answers_are_found_among_events_and_old_answers() {
        let said = "{\"event\": \"STOP\", \"timestamp\": {}}\n{\"return\": {\"status\": \"old\"}, \"id\": 1}\n\
                    {\"return\": {\"status\": \"paused\"}, \"id\": 2}\n";
        let mut qmp = scripted(&greeting(), &[READY, said]).await.unwrap();
        assert_eq!(qmp.status().await.unwrap(), "paused");
    }

    #[tokio::test]
    async fn a_refusal_is_told_without_what_could_hurt() {
        let said = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\\u001b[2J way\"}, \"id\": 2}\n";
        let mut qmp = scripted(&greeting(), &[READY, said]).await.unwrap();
        let refusal = qmp.run("cont", json!({})).await.unwrap_err();
        assert_eq!(refusal.doing, "the machine's monitor refuses cont: no[2J way");
    }

    #[tokio::test]
    async fn nonsense_ends_the_conversation() {
        let flood = "x".repeat(LINE_LEN_MAX + 1);
        let chatter = "{\"event\": \"STOP\"}\n".repeat(LINES_MAX + 1);
        for (said, kind) in [
            ("not json\n", ErrorKind::Internal),
            ("{\"id\": 2}\n", ErrorKind::Internal),
            (&*flood, ErrorKind::Internal),
            (&*chatter, ErrorKind::Internal),
            ("{\"return\":", ErrorKind::Unavailable),
        ] {
            let mut qmp = scripted(&greeting(), &[READY, said]).await.unwrap();
            let failed = qmp.status().await.unwrap_err();
            assert_eq!(failed.kind, kind, "{}", failed.chain());
        }
        assert!(scripted("{\"return\": {}}\n", &[]).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_answer_is_not_waited_for() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(Qmp::greet(ours).await.unwrap_err().kind, ErrorKind::Deadline);
    }

    #[tokio::test]
    async fn a_file_goes_along_with_its_command() {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let (ours, theirs) = UnixStream::pair().unwrap();
        let asked = tokio::task::spawn_blocking(move || {
            let theirs = theirs.into_std().unwrap();
            theirs.set_nonblocking(false).unwrap();
            let say = |text: &str| io::Write::write_all(&mut &theirs, text.as_bytes()).unwrap();
            say(&greeting());
            let mut text = [0; 4096];
            io::Read::read(&mut &theirs, &mut text).unwrap();
            say(READY);
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let got =
                recvmsg(&theirs, &mut [io::IoSliceMut::new(&mut text)], &mut control, RecvFlags::empty()).unwrap();
            let files = control.drain().filter(|m| matches!(m, RecvAncillaryMessage::ScmRights(_))).count();
            say("{\"return\": {}, \"id\": 2}\n");
            (String::from_utf8_lossy(&text[..got.bytes]).into_owned(), files)
        });
        let mut qmp = Qmp::greet(ours).await.unwrap();
        let file = tempfile::tempfile().unwrap();
        qmp.give("state", file.as_fd()).await.unwrap();
        let (text, files) = asked.await.unwrap();
        assert!(text.contains("getfd") && text.contains("state") && text.ends_with('\n'), "{text}");
        assert_eq!(files, 1);
    }
}
