//! A small HTTP/1.1 server that says exactly what a test of a proxy needs to see, right and wrong. One request for each
//! connection. `probe web` runs it inside a sandbox.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest head believed.
const HEAD_MAX: usize = 1 << 20;

/// What [`answer`] knows.
pub const ROUTES: &str = "\
/echo          the head of the request as it came
/body          reads the body; its length, its last bytes, and the trailers
/copy          the body, piece by piece while it comes
/chunks        two chunks and a trailer
/sse           one event, then silence until the client is gone
/flood         bytes without end
/unread        never reads a body, never answers
/silent        never answers, until the client is gone
/head?n        an answer with a header of n bytes
/status?n      an answer with this status, and a length of 5
/continue      says 100 Continue, then as /body
/refuse        answers 417 before the body
/switch        becomes `echo`: says what it hears, and `bye` when that ends
/raw?hex       these bytes, and the end";

/// Reads one request and answers it.
pub async fn answer<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> io::Result<()> {
    let mut wire = Wire { io, held: Vec::new() };
    let head = String::from_utf8_lossy(&wire.until(b"\r\n\r\n").await?).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let (route, query) = path.split_once('?').unwrap_or((&path, ""));
    let number = query.split('&').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or_default();
    match route {
        "/body" => wire.told(&head).await?,
        "/continue" => {
            wire.say("HTTP/1.1 100 Continue\r\n\r\n").await?;
            wire.told(&head).await?;
        }
        "/copy" => wire.copy(&head).await?,
        "/chunks" => {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nSet-Cookie: a=1; Domain=localhost\r\n";
            wire.say(&format!("{head}\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n")).await?;
        }
        "/sse" => {
            wire.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\n").await?;
            wire.gone().await;
        }
        "/flood" => {
            wire.say("HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                wire.io.write_all(&[b'x'; 16384]).await?;
            }
        }
        "/unread" => std::future::pending().await,
        "/silent" => wire.gone().await,
        "/head" => wire.reply(200, &format!("X-Large: {}\r\n", "x".repeat(number)), "").await?,
        "/status" => {
            let text = format!("HTTP/1.1 {number} Status\r\nContent-Length: 5\r\n\r\n");
            wire.say(&text).await?;
            if !head.starts_with("HEAD") && number != 304 {
                wire.say("12345").await?;
            }
        }
        "/refuse" => wire.reply(417, "", "no").await?,
        "/switch" => wire.switch().await?,
        "/raw" => wire.io.write_all(&unhex(query)).await?,
        _ => wire.reply(200, "", &head).await?,
    }
    wire.io.shutdown().await
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap_or_default();
    digits.chunks(2).map(byte).collect()
}

/// How a request says how long its body is.
enum Length {
    Known(usize),
    Chunked,
}

impl Length {
    fn of(head: &str) -> Self {
        let lower = head.to_ascii_lowercase();
        if lower.contains("\r\ntransfer-encoding: chunked") {
            return Self::Chunked;
        }
        let length = lower.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        Self::Known(length.and_then(|n| n.parse().ok()).unwrap_or_default())
    }
}

struct Wire<T> {
    io: T,
    held: Vec<u8>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire<T> {
    async fn say(&mut self, text: &str) -> io::Result<()> {
        self.io.write_all(text.as_bytes()).await?;
        self.io.flush().await
    }

    async fn reply(&mut self, status: u16, headers: &str, body: &str) -> io::Result<()> {
        self.say(&format!("HTTP/1.1 {status} Reply\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())).await
    }

    /// Waits until nobody is there any more.
    async fn gone(&mut self) {
        while self.fill().await.is_ok() {
            self.held.clear();
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        let mut piece = vec![0; 16384];
        let count = self.io.read(&mut piece).await?;
        if count == 0 || self.held.len() > HEAD_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.held.extend(piece.into_iter().take(count));
        Ok(())
    }

    async fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.held.windows(end.len()).position(|window| window == end) {
                return Ok(self.held.drain(..at + end.len()).collect());
            }
            self.fill().await?;
        }
    }

    /// The next piece of a body; the trailers at its end.
    async fn piece(&mut self, length: &mut Length) -> io::Result<Result<Vec<u8>, String>> {
        match length {
            Length::Known(0) => Ok(Err(String::new())),
            Length::Known(left) => {
                if self.held.is_empty() {
                    self.fill().await?;
                }
                let piece: Vec<u8> = self.held.drain(..self.held.len().min(*left)).collect();
                *left -= piece.len();
                Ok(Ok(piece))
            }
            Length::Chunked => {
                let line = String::from_utf8_lossy(&self.until(b"\r\n").await?).into_owned();
                let size = usize::from_str_radix(line.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
                if size == 0 {
                    return self.trailers().await.map(Err);
                }
                while self.held.len() < size + 2 {
                    self.fill().await?;
                }
                let piece = self.held.drain(..size).collect();
                self.held.drain(..2);
                Ok(Ok(piece))
            }
        }
    }

    async fn trailers(&mut self) -> io::Result<String> {
        let mut trailers = String::new();
        loop {
            match String::from_utf8_lossy(&self.until(b"\r\n").await?).trim() {
                "" => return Ok(trailers),
                line => trailers.push_str(line),
            }
        }
    }

    async fn told(&mut self, head: &str) -> io::Result<()> {
        let (mut length, mut count, mut last) = (Length::of(head), 0, Vec::new());
        let trailers = loop {
            match self.piece(&mut length).await? {
                Ok(piece) => {
                    count += piece.len();
                    last.extend(piece);
                    last.drain(..last.len().saturating_sub(8));
                }
                Err(trailers) => break trailers,
            }
        };
        self.reply(200, "", &format!("{count} {} {trailers}", String::from_utf8_lossy(&last))).await
    }

    async fn copy(&mut self, head: &str) -> io::Result<()> {
        let mut length = Length::of(head);
        self.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
        while let Ok(piece) = self.piece(&mut length).await? {
            self.say(&format!("{:x}\r\n", piece.len())).await?;
            self.io.write_all(&piece).await?;
            self.say("\r\n").await?;
        }
        self.say("0\r\n\r\n").await
    }

    async fn switch(&mut self) -> io::Result<()> {
        self.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").await?;
        loop {
            let held = std::mem::take(&mut self.held);
            self.io.write_all(&held).await?;
            self.io.flush().await?;
            if self.fill().await.is_err() {
                return self.say("bye").await;
            }
        }
    }
}
