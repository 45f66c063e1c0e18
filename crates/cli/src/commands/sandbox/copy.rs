//! `moat sandbox cp`: as `docker cp` does it.
//!
//! A source directory becomes the destination, or goes into it if that is a directory already. What comes out of a sandbox
//! is unpacked as something nobody vouches for ([`crate::tree`]).

use std::path::{Path, PathBuf};

use clap::Args;
use futures::StreamExt;
use moat_api::client::rest::{ByteStream, RestClient};
use moat_api::rest::file::{File, FileQuery};
use moat_model::ErrorKind;
use tokio::io::AsyncWriteExt;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::rest;
use crate::tree::{self, Owners};

/// From where to where.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// User inside it is done as [default: the sandbox's]
    #[arg(long = "as", value_name = "USER")]
    run_as: Option<String>,
    /// SANDBOX:PATH, a path here, or - for a tar archive on standard input
    #[arg(value_name = "SOURCE")]
    from: String,
    /// SANDBOX:PATH, a path here, or - for a tar archive on standard output
    #[arg(value_name = "DESTINATION")]
    to: String,
}

/// One end.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Inside { sandbox: String, path: String },
    Here(PathBuf),
    Stream,
}

impl Place {
    fn parse(text: &str) -> Result<Self, Failure> {
        match text.split_once(':') {
            _ if text == "-" => Ok(Self::Stream),
            // `./a:b` and `/a:b` are paths here.
            Some((sandbox, path)) if !sandbox.is_empty() && !sandbox.contains('/') && !sandbox.starts_with('.') => {
                if !path.starts_with('/') {
                    return Err(Failure::invalid(format!("{text}: paths in a sandbox begin with /")));
                }
                Ok(Self::Inside { sandbox: sandbox.to_owned(), path: path.to_owned() })
            }
            _ => Ok(Self::Here(PathBuf::from(text))),
        }
    }
}

/// Copies.
pub async fn run(global: &Global, output: &Output, args: &CopyArgs) -> Result<(), Failure> {
    output.no_json("sandbox cp")?;
    let (from, to) = (Place::parse(&args.from)?, Place::parse(&args.to)?);
    let client = rest::client(global)?;
    let inside = async |sandbox: &str, path: String| {
        let id = rest::sandbox_id(&client, sandbox).await?;
        Ok::<_, Failure>(Inside { client: &client, id, user: args.run_as.clone(), path })
    };
    match (from, to) {
        (Place::Inside { sandbox, path }, Place::Stream) => {
            let source = inside(&sandbox, path).await?;
            let archive = client.read_tar(&source.id, &source.query(&source.path)).await?;
            pour(archive, tokio::io::stdout()).await
        }
        (Place::Inside { sandbox, path }, Place::Here(to)) => inside(&sandbox, path).await?.fetch(&to).await,
        (Place::Stream, Place::Inside { sandbox, path }) => {
            let target = inside(&sandbox, path).await?;
            client.write_tar(&target.id, &target.query(&target.path), tree::stdin()).await?;
            Ok(())
        }
        (Place::Here(from), Place::Inside { sandbox, path }) => inside(&sandbox, path).await?.bring(&from).await,
        (Place::Inside { .. }, Place::Inside { .. }) => Err(Failure::new(
            ErrorKind::Unsupported,
            "copies between two sandboxes are not there: copy out, then in, or pipe `cp A:/path -` into `cp - B:/path`",
        )),
        _ => Err(Failure::invalid("one of source and destination is SANDBOX:PATH")),
    }
}

/// A path in a sandbox.
#[derive(Debug)]
pub struct Inside<'a> {
    /// Whom to ask.
    pub client: &'a RestClient,
    /// The sandbox.
    pub id: String,
    /// As whom it is done inside.
    pub user: Option<String>,
    /// The path.
    pub path: String,
}

impl Inside<'_> {
    fn query(&self, path: &str) -> FileQuery {
        FileQuery { path: path.to_owned(), user: self.user.clone(), ..FileQuery::default() }
    }

    async fn stat(&self, path: &str) -> Result<Option<File>, Failure> {
        match self.client.stat(&self.id, &self.query(path)).await {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind == ErrorKind::NotFound => {
                // The sandbox itself may be what is not there.
                self.client.sandbox(&self.id).await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn is_directory(&self, path: &str) -> Result<bool, Failure> {
        Ok(self.stat(path).await?.is_some_and(|file| file.kind == "directory"))
    }

    /// Out of the sandbox.
    pub async fn fetch(&self, to: &Path) -> Result<(), Failure> {
        let source = self
            .stat(&self.path)
            .await?
            .ok_or_else(|| Failure::new(ErrorKind::NotFound, format!("{}:{} does not exist", self.id, self.path)))?;
        let name = Path::new(&self.path).file_name().map(PathBuf::from).unwrap_or_default();
        let target = if to.is_dir() { to.join(name) } else { to.to_owned() };
        if source.kind == "directory" {
            std::fs::create_dir_all(&target).map_err(|e| Failure::file("create", &target, &e))?;
            let archive = self.client.read_tar(&self.id, &self.query(&self.path)).await?;
            return tree::unpack(archive, target).await;
        }
        let content = self.client.read_file(&self.id, &self.query(&self.path)).await?;
        save(content, &target, &source.mode).await
    }

    /// Into the sandbox.
    pub async fn bring(&self, from: &Path) -> Result<(), Failure> {
        let metadata = std::fs::metadata(from).map_err(|e| Failure::file("read", from, &e))?;
        let name = from.canonicalize().ok().and_then(|path| path.file_name().map(|n| n.to_string_lossy().into_owned()));
        let into = self.path.ends_with('/') || self.is_directory(&self.path).await?;
        let target = match name {
            Some(name) if into => format!("{}/{name}", self.path.trim_end_matches('/')),
            _ => self.path.clone(),
        };
        if metadata.is_dir() {
            let archive = tree::pack(from, Owners::Nobody);
            self.client.write_tar(&self.id, &self.query(&target), archive).await?;
            return Ok(());
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
        let query = FileQuery { mode: Some(format!("{mode:04o}")), ..self.query(&target) };
        self.client.write_file(&self.id, &query, tree::read(from).await?).await?;
        Ok(())
    }
}

/// Writes beside the target, then puts it in its place: a copy that breaks leaves what was there.
async fn save(content: ByteStream, target: &Path, mode: &str) -> Result<(), Failure> {
    let mut name = target.file_name().map(std::ffi::OsStr::to_os_string).unwrap_or_default();
    name.push(format!(".moat-{}", std::process::id()));
    let draft = target.with_file_name(name);
    let failed = |e: std::io::Error| Failure::file("write", target, &e);
    // Set-user-id and the like stay inside.
    let mode = u32::from_str_radix(mode, 8).unwrap_or(0o600) & 0o777;
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    let file = options.write(true).create_new(true).open(&draft).map_err(failed)?;
    let written = pour(content, tokio::fs::File::from_std(file)).await;
    let placed = written.and_then(|()| std::fs::rename(&draft, target).map_err(failed));
    if placed.is_err() {
        // It is ours, and worth nothing.
        let _ = std::fs::remove_file(&draft);
    }
    placed
}

async fn pour(mut content: ByteStream, mut to: impl tokio::io::AsyncWrite + Unpin) -> Result<(), Failure> {
    while let Some(piece) = content.next().await {
        let piece = piece.map_err(|e| Failure::new(ErrorKind::Unavailable, format!("read from the sandbox: {e}")))?;
        to.write_all(&piece).await?;
    }
    to.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let inside = Place::Inside { sandbox: "sb-1".to_owned(), path: "/a:b".to_owned() };
        assert_eq!(Place::parse("sb-1:/a:b").unwrap(), inside);
        for here in ["a", "./a:b", "/a:b", "../x:y"] {
            assert_eq!(Place::parse(here).unwrap(), Place::Here(PathBuf::from(here)), "{here}");
        }
        assert_eq!(Place::parse("-").unwrap(), Place::Stream);
        assert!(Place::parse("sb-1:relative").is_err());
    }
}
