//! Archives and snapshots of jails.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use futures::StreamExt;
use moat_api::client::rest::ByteStream;
use moat_model::ErrorKind;
use moat_model::jail::target::Reach;
use moat_model::jail::{ImportJail, JailView, SnapshotTag, SnapshotView, TakeJailSnapshot};
use moat_model::units::format_bytes;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::args::{AutoWords, ExportArgs, ImportArgs, ZfsArgs};
use super::front::Front;
use super::life::name;
use super::words::Words;
use crate::failure::Failure;
use crate::tree;

const DONE: ExitCode = ExitCode::SUCCESS;
/// Longest checksum file that is read: a digest and a name.
const CHECKSUM_MAX: u64 = 8 << 10;

/// Writes an archive and its checksum.
pub async fn export(front: &Front, args: ExportArgs) -> Result<ExitCode, Failure> {
    let others = [
        ("--tgz", args.tgz),
        ("--txz", args.txz),
        ("--gz", args.gz),
        ("--xz", args.xz),
        ("--zst", args.zst),
        ("--raw", args.raw),
    ];
    if let Some((option, _)) = others.iter().find(|(_, given)| *given) {
        let why = format!("{option}: an archive is a tar packed with zstd (--tzst); leave it out");
        return Err(Failure::new(ErrorKind::Unsupported, why));
    }
    if args.auto || args.live || args.tzst {
        front
            .say
            .warn("export: a jail that is up stays up, and the archive is a tar packed with zstd, with any option")?;
    }
    let mut words = Words::new(args.words, "moat jail export [-a|-l] TARGET [DIRECTORY]");
    let jail = front.one(&words.take("TARGET")?).await?;
    let dir = words.maybe().unwrap_or_else(|| ".".to_owned());
    words.end()?;
    let exported = front.client.export_jail(jail.spec.name.as_str()).await?;
    if dir == "-" {
        copy(exported.content, &mut tokio::io::stdout()).await?;
        return Ok(DONE);
    }
    let name = Path::new(&exported.name).file_name().map(PathBuf::from).unwrap_or_default();
    let path = Path::new(&dir).join(&name);
    let sum = save(exported.content, &path).await?;
    if sum != exported.sha256 {
        // What is on disk is not what the node made: it must not be taken for an archive.
        let _ = std::fs::remove_file(&path);
        return Err(Failure::new(ErrorKind::Unavailable, format!("{}: it was damaged on its way", path.display())));
    }
    let beside = checksum_of(&path);
    let text = format!("{sum}  {}\n", name.display());
    std::fs::write(&beside, text).map_err(|e| Failure::file("write", &beside, &e))?;
    front.say.line(&path.display().to_string())?;
    Ok(DONE)
}

fn checksum_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sha256");
    PathBuf::from(name)
}

/// Writes beside the target, then puts it in its place.
async fn save(content: ByteStream, path: &Path) -> Result<String, Failure> {
    let failed = |e: std::io::Error| Failure::file("write", path, &e);
    let mut draft = path.as_os_str().to_owned();
    draft.push(".part");
    let mut file = tokio::fs::File::create(&draft).await.map_err(failed)?;
    let written = copy(content, &mut file).await;
    let placed = match written {
        Ok(sum) => file.sync_all().await.and_then(|()| std::fs::rename(&draft, path)).map_err(failed).map(|()| sum),
        Err(failure) => Err(failure),
    };
    if placed.is_err() {
        // It is ours, and worth nothing.
        let _ = std::fs::remove_file(&draft);
    }
    placed
}

/// Carries all of it, and says its SHA-256.
async fn copy(mut content: ByteStream, to: &mut (impl tokio::io::AsyncWrite + Unpin)) -> Result<String, Failure> {
    let mut sum = Sha256::new();
    while let Some(piece) = content.next().await {
        let piece = piece.map_err(|e| Failure::new(ErrorKind::Unavailable, format!("read the archive: {e}")))?;
        sum.update(&piece);
        to.write_all(&piece).await?;
    }
    to.flush().await?;
    Ok(data_encoding::HEXLOWER.encode(&sum.finalize()))
}

/// Makes a jail of an archive, if it is the one that was written.
pub async fn import(front: &Front, args: ImportArgs) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail import [-f] FILE");
    let file = words.take("FILE")?;
    if let Some(release) = words.maybe() {
        let why = format!("{release}: an archive knows what it was made of; leave it out");
        return Err(Failure::new(ErrorKind::Unsupported, why));
    }
    let path = Path::new(&file);
    let mut query = ImportJail { force: args.force, ..ImportJail::default() };
    query.name = args.named.as_deref().map(name).transpose()?;
    if !args.force {
        query.sha256 = Some(checksum(path).await?);
    }
    let content = if file == "-" { tree::stdin() } else { tree::read(path).await? };
    let ended = front.follow(front.client.import_jail(&query, content).await?).await?;
    let jail = ended.jail.ok_or_else(|| Failure::internal("import", "the node did not say what it made"))?;
    front.say.info(&format!("{}: imported; it is down", jail.spec.name))?;
    Ok(DONE)
}

/// The digest that stands in the file beside.
async fn checksum(path: &Path) -> Result<String, Failure> {
    let beside = checksum_of(path);
    let hint = "-f takes the archive without it";
    let file = tokio::fs::File::open(&beside).await;
    let file = file.map_err(|e| Failure::file("read", &beside, &e).with_hint(hint))?;
    let mut text = String::new();
    let read = file.take(CHECKSUM_MAX).read_to_string(&mut text).await;
    read.map_err(|e| Failure::file("read", &beside, &e).with_hint(hint))?;
    let digest = |word: &&str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let found = text.split_whitespace().find(digest).map(str::to_ascii_lowercase);
    found.ok_or_else(|| Failure::invalid(format!("{}: no SHA-256 in it", beside.display())).with_hint(hint))
}

/// Keeps files as they are.
pub async fn snapshot(front: &Front, args: AutoWords) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail snapshot TARGET [TAG]");
    let (target, tag) = (words.take("TARGET")?, words.maybe());
    words.end()?;
    take(front, &target, tag).await
}

/// Makes files what they were.
pub async fn rollback(front: &Front, args: AutoWords) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail rollback [-a] TARGET [TAG]");
    let (target, tag) = (words.take("TARGET")?, words.maybe());
    words.end()?;
    roll_back(front, &target, tag, args.auto).await
}

/// Bastille's spelling of the same.
pub async fn zfs(front: &Front, args: ZfsArgs) -> Result<ExitCode, Failure> {
    let front = &front.louder(args.verbose);
    let usage = "moat jail zfs [-a] TARGET snapshot [TAG] | rollback [TAG] | destroy TAG | df";
    let mut words = Words::new(args.words, usage);
    let (target, verb) = (words.take("TARGET")?, words.take("snapshot, rollback, destroy or df")?);
    let tag = words.maybe();
    match verb.as_str() {
        "snapshot" => {
            words.end()?;
            take(front, &target, tag).await
        }
        "rollback" => {
            words.end()?;
            roll_back(front, &target, tag, args.auto).await
        }
        "destroy" => {
            let tag = tag.ok_or_else(|| words.wrong("TAG is missing"))?;
            words.end()?;
            let jails = front.several(&target, Reach::Exact).await?;
            drop_each(front, &jails, &tag).await
        }
        "df" => list(front, &front.several(&target, Reach::Any).await?).await,
        "get" | "set" | "jail" | "unjail" => {
            let why =
                format!("zfs {verb}: jails lie in directories, not in datasets; snapshot, rollback and destroy work");
            Err(Failure::new(ErrorKind::Unsupported, why))
        }
        other => Err(words.wrong(&format!("{other:?} is none of snapshot, rollback, destroy and df"))),
    }
}

async fn drop_each(front: &Front, jails: &[JailView], tag: &str) -> Result<ExitCode, Failure> {
    let tag = parsed(tag)?;
    front
        .each(jails, async |jail: &JailView| {
            let name = jail.spec.name.as_str();
            front.client.delete_jail_snapshot(name, tag.as_str()).await?;
            front.say.info(&format!("{name}: snapshot {tag} destroyed"))?;
            Ok(DONE)
        })
        .await
}

fn parsed(tag: &str) -> Result<SnapshotTag, Failure> {
    SnapshotTag::parse(tag).map_err(|error| Failure::invalid(error.to_string()))
}

async fn take(front: &Front, target: &str, tag: Option<String>) -> Result<ExitCode, Failure> {
    let tag = tag.as_deref().map(parsed).transpose()?;
    let request = TakeJailSnapshot { tag };
    let jails = front.several(target, Reach::Any).await?;
    front
        .each(&jails, async |jail: &JailView| {
            let name = jail.spec.name.as_str();
            let ended = front.follow(front.client.snapshot_jail(name, &request).await?).await?;
            let snapshot: SnapshotView = ended.result()?;
            front.say.line(snapshot.tag.as_str())?;
            Ok(DONE)
        })
        .await
}

async fn roll_back(front: &Front, target: &str, tag: Option<String>, auto: bool) -> Result<ExitCode, Failure> {
    let asked = tag.as_deref().map(parsed).transpose()?;
    // What it throws away cannot be had again.
    let jails = front.several(target, Reach::Exact).await?;
    front
        .each(&jails, async |jail: &JailView| {
            let name = jail.spec.name.as_str();
            let tag = match &asked {
                Some(tag) => tag.clone(),
                None => {
                    let newest = front.client.jail_snapshots(name).await?.snapshots.pop();
                    let none = || Failure::new(ErrorKind::NotFound, format!("jail {name} has no snapshot"));
                    newest.ok_or_else(none)?.tag
                }
            };
            let was_up = front.down(jail, auto).await?;
            let rolled = match front.client.roll_jail_back(name, tag.as_str()).await {
                Ok(events) => front.follow(events).await,
                Err(error) => Err(error.into()),
            };
            front.back(name, was_up).await?;
            rolled?;
            front.say.info(&format!("{name}: is as in {tag}"))?;
            Ok(DONE)
        })
        .await
}

/// Snapshots of jails, with what they take.
pub async fn list(front: &Front, jails: &[JailView]) -> Result<ExitCode, Failure> {
    let mut rows = Vec::new();
    for jail in jails {
        for snapshot in front.client.jail_snapshots(jail.spec.name.as_str()).await?.snapshots {
            rows.push([
                jail.spec.name.to_string(),
                snapshot.tag.to_string(),
                format_bytes(snapshot.bytes),
                moat_api::nex::event::rfc3339(snapshot.created_at),
            ]);
        }
    }
    front.say.output.table(["JAIL", "SNAPSHOT", "SIZE", "CREATED"], rows)?;
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_checksum_is_found_as_sha256sum_and_freebsd_write_it() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.tar.zst");
        let sum = "ab".repeat(32);
        assert!(checksum(&archive).await.is_err());
        for text in [
            format!("{sum}  a.tar.zst\n"),
            format!("SHA256 (a.tar.zst) = {sum}\n"),
            format!("{}\n", sum.to_uppercase()),
        ] {
            std::fs::write(checksum_of(&archive), text).unwrap();
            assert_eq!(checksum(&archive).await.unwrap(), sum);
        }
        std::fs::write(checksum_of(&archive), "nothing").unwrap();
        assert!(checksum(&archive).await.is_err());
    }
}
