//! The L-tests of the specification, and the invariant: a position survives a kill at any point.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moat_agent::protocol::StreamName::{Stderr, Stdout};
use moat_model::{Namespace, NodeId, SandboxId, Timestamp, WorkloadId, WorkloadName};
use proptest::prelude::*;
use tokio::sync::watch;

use super::*;

fn sandbox(n: u8) -> SandboxId {
    SandboxId::from_parts(Timestamp::from_millis(i64::from(n)), [n; 10])
}

fn rotation(files_max: u32, file_bytes_max: u64) -> Rotation {
    Rotation { files_max, file_bytes_max }
}

fn open(dir: &Path, rotation: Rotation) -> StreamLog {
    StreamLog::open(dir, "app.stdout", rotation).unwrap()
}

fn file(dir: &Path, number: u64) -> Vec<u8> {
    std::fs::read(dir.join(format!("app.stdout.{number}"))).unwrap()
}

fn workload() -> WorkloadRef {
    WorkloadRef {
        namespace: Namespace::default_namespace(),
        name: WorkloadName::parse("app").unwrap(),
        id: WorkloadId::parse("cq1v8k3q7d2c73f0a9g0").unwrap(),
        node: NodeId::parse("NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA").unwrap(),
    }
}

fn read_all(log: &Arc<WorkloadLog>, from: u64) -> Vec<u8> {
    Reader::new(Arc::clone(log), Stdout).read_through(from, usize::MAX).unwrap().bytes.to_vec()
}

#[test]
fn l01_files_rotate_at_the_limit_and_the_oldest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let id = sandbox(1);
    let mut log = open(dir.path(), rotation(3, 10));
    assert_eq!(log.append(&id, 0, b"0123456789", None).unwrap().written, 10);
    assert!(!dir.path().join("app.stdout.1").exists(), "a full file alone begins no other");
    log.append(&id, 10, b"abcdefghijKLMNOPQRSTuv", None).unwrap();
    assert!(!dir.path().join("app.stdout.0").exists(), "the oldest goes");
    assert_eq!(
        [file(dir.path(), 1), file(dir.path(), 2), file(dir.path(), 3)],
        [&b"abcdefghij"[..], b"KLMNOPQRST", b"uv"]
    );
    drop(log);
    let mut log = open(dir.path(), rotation(3, 10));
    assert_eq!((log.begin(), log.end(), log.written(&id)), (10, 32, 32));
    log.append(&id, 32, b"wx", None).unwrap();
    assert_eq!(file(dir.path(), 3), b"uvwx", "it resumes in the last file");
    assert!(StreamLog::open(&dir.path().join("none"), "app.stdout", rotation(3, 10)).is_err());
}

#[test]
fn l02_what_was_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), Rotation::default());
    log.append(&sandbox(1), 0, b"hello ", None).unwrap();
    drop(log);
    let mut log = open(dir.path(), Rotation::default());
    log.append(&sandbox(1), 6, b"world\n", None).unwrap();
    assert_eq!(file(dir.path(), 0), b"hello world\n");
}

#[tokio::test]
async fn l03_followers_see_both_streams_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let log = WorkloadLog::create(dir.path(), workload(), rotation(4, 64)).unwrap();
    let publishing = watch::Sender::new(false);
    let (id, mut seen) = (sandbox(1), [Vec::new(), Vec::new()]);
    let mut readers = [Reader::new(Arc::clone(&log), Stdout), Reader::new(Arc::clone(&log), Stderr)];
    let mut offsets = [0, 0];
    for n in 0..200_u32 {
        for (at, stream) in [Stdout, Stderr].into_iter().enumerate() {
            let line = Bytes::from(format!("{} {n}\n", stream_text(stream)));
            let len = line.len() as u64;
            log.append(&id, stream, offsets[at], line, publishing.subscribe()).await.unwrap();
            offsets[at] += len;
            let piece = readers[at].read(seen[at].len() as u64, 1024).unwrap();
            assert_eq!(piece.at, seen[at].len() as u64);
            seen[at].extend_from_slice(&piece.bytes);
        }
    }
    for (at, stream) in [Stdout, Stderr].into_iter().enumerate() {
        let wanted: String = (0..200).map(|n| format!("{} {n}\n", stream_text(stream))).collect();
        assert_eq!(String::from_utf8_lossy(&seen[at]), wanted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// However the pipe cuts the output, no line shorter than the window is split between two files.
    #[test]
    fn l04_a_line_below_32_kib_is_never_split(
        lines in proptest::collection::vec(1_usize..(32 << 10), 1..40),
        chunk in 1_usize..70_000,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), rotation(100, 128 << 10));
        let bytes: Vec<u8> = lines.iter().flat_map(|len| std::iter::repeat_n(b'x', len - 1).chain([b'\n'])).collect();
        let mut offset = 0;
        for piece in bytes.chunks(chunk) {
            offset = log.append(&sandbox(1), offset, piece, None).unwrap().written;
        }
        let mut together = Vec::new();
        for number in 0.. {
            let path = dir.path().join(format!("app.stdout.{number}"));
            let Ok(content) = std::fs::read(path) else { break };
            prop_assert!(content.len() <= 128 << 10);
            prop_assert!(content.last() == Some(&b'\n') || together.len() + content.len() == bytes.len());
            together.extend(content);
        }
        prop_assert_eq!(together, bytes);
    }

    /// The daemon is killed at any point of any write: what the kernel took is what counts, and the rest is sent again,
    /// from wherever the agent believes, also by another attempt in between.
    #[test]
    fn a_position_survives_a_kill_at_any_point(
        steps in proptest::collection::vec((0_u8..2, 1_usize..40, 0_usize..40, any::<bool>()), 1..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let rules = rotation(1000, 16);
        let outputs = [vec![b'a'; 4000], vec![b'b'; 4000]];
        let mut expected = Vec::new();
        let mut sent = [0_usize; 2];
        let mut log = open(dir.path(), rules);
        for (who, len, torn, again) in steps {
            let who = usize::from(who);
            let id = sandbox(u8::try_from(who).unwrap());
            // Part of the piece was there already when the one before was cut short.
            let from = if again { sent[who].saturating_sub(torn) } else { sent[who] };
            let piece = &outputs[who][from..(sent[who] + len).min(4000)];
            log.append(&id, from as u64, piece, None).unwrap();
            expected.extend_from_slice(&outputs[who][sent[who]..from + piece.len()]);
            let fresh = from + piece.len() - sent[who];
            sent[who] += fresh;
            // Killed: the end of the last write never reached the file.
            drop(log);
            let last = (0..).take_while(|n| dir.path().join(format!("app.stdout.{n}")).exists()).last().unwrap();
            let path = dir.path().join(format!("app.stdout.{last}"));
            let lost = torn.min(usize::try_from(path.metadata().unwrap().len()).unwrap()).min(fresh);
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(path.metadata().unwrap().len() - lost as u64).unwrap();
            expected.truncate(expected.len() - lost);
            sent[who] -= lost;
            log = open(dir.path(), rules);
            prop_assert_eq!(log.end(), expected.len() as u64);
            for who in 0..2 {
                prop_assert_eq!(log.written(&sandbox(who)), sent[usize::from(who)] as u64);
            }
        }
        let mut together = Vec::new();
        for number in 0.. {
            let Ok(content) = std::fs::read(dir.path().join(format!("app.stdout.{number}"))) else { break };
            together.extend(content);
        }
        prop_assert_eq!(together, expected);
    }
}

#[tokio::test]
async fn l05_a_reader_follows_over_rotations_without_loss_or_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let log = WorkloadLog::create(dir.path(), workload(), rotation(5, 1000)).unwrap();
    let publishing = watch::Sender::new(false);
    let mut reader = Reader::new(Arc::clone(&log), Stdout);
    let (mut offset, mut seen, mut wanted) = (0, Vec::new(), Vec::new());
    for n in 0..1000_u32 {
        let line = format!("line {n}\n");
        wanted.extend_from_slice(line.as_bytes());
        let len = line.len() as u64;
        log.append(&sandbox(1), Stdout, offset, line.into(), publishing.subscribe()).await.unwrap();
        offset += len;
        if n % 50 == 0 {
            let piece = reader.read_through(seen.len() as u64, usize::MAX).unwrap();
            assert_eq!(piece.at, seen.len() as u64);
            seen.extend_from_slice(&piece.bytes);
        }
    }
    seen.extend_from_slice(&read_all(&log, seen.len() as u64));
    assert_eq!(seen, wanted);
    assert!(log.begin().stdout > 0, "several files are gone");
    let late = Reader::new(Arc::clone(&log), Stdout).read(0, 10).unwrap();
    assert_eq!(late.at, log.begin().stdout, "a late reader is told where what is left begins");
}

#[tokio::test]
async fn the_tail_is_the_last_lines() {
    let dir = tempfile::tempdir().unwrap();
    let log = WorkloadLog::create(dir.path(), workload(), rotation(9, 100_000)).unwrap();
    let publishing = watch::Sender::new(false);
    let text: String = (0..30_000).map(|n| format!("{n}\n")).collect();
    log.append(&sandbox(1), Stdout, 0, text.clone().into(), publishing.subscribe()).await.unwrap();
    let tail = |lines| String::from_utf8(read_all(&log, tail_position(&log, Stdout, lines).unwrap())).unwrap();
    assert_eq!(tail(2), "29998\n29999\n");
    assert_eq!(tail(30_000), text);
    assert_eq!(tail(u64::MAX), text);
    assert_eq!(tail(0), "");
    log.append(&sandbox(1), Stdout, text.len() as u64, "half".into(), publishing.subscribe()).await.unwrap();
    assert_eq!(tail(2), "29999\nhalf");
}

#[tokio::test]
async fn a_gap_is_refused_and_what_is_known_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let log = WorkloadLog::create(dir.path(), workload(), Rotation::default()).unwrap();
    let publishing = watch::Sender::new(false);
    let send = async |offset, text: &'static str| {
        log.append(&sandbox(1), Stdout, offset, text.into(), publishing.subscribe()).await
    };
    send(0, "abcdef").await.unwrap();
    send(3, "defghi").await.unwrap();
    send(0, "abc").await.unwrap();
    assert_eq!(read_all(&log, 0), b"abcdefghi");
    let error = send(20, "x").await.unwrap_err();
    assert_eq!(error.kind, moat_model::ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn a_full_log_waits_for_a_publisher_at_work_and_for_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let log = WorkloadLog::create(dir.path(), workload(), rotation(2, 10)).unwrap();
    let publishing = watch::Sender::new(true);
    let id = sandbox(1);
    let send = async |offset, text: &'static str| {
        let append = log.append(&id, Stdout, offset, text.into(), publishing.subscribe());
        tokio::time::timeout(Duration::from_secs(1), append).await
    };
    send(0, "0123456789abcdefghij").await.unwrap().unwrap();
    assert!(send(20, "K").await.is_err(), "nothing is published: it waits");
    log.set_published(Cursor { stdout: 10, stderr: 0 });
    send(20, "K").await.unwrap().unwrap();
    assert_eq!(log.begin().stdout, 10);
    send(21, "LMNOPQRST").await.unwrap().unwrap();
    assert!(send(30, "u").await.is_err());
    publishing.send_replace(false);
    send(30, "u").await.unwrap().unwrap();
    assert_eq!(log.begin().stdout, 20, "NATS is away: the oldest goes");
    publishing.send_replace(true);
    let stalled = log.append(&id, Stdout, 31, "vwxyz012345".into(), publishing.subscribe());
    tokio::time::timeout(Duration::from_secs(60), stalled)
        .await
        .expect("a publisher that stands still holds nobody for ever")
        .unwrap();
}

/// A disk that is full slows the program down and loses nothing: a file-size limit stands for it.
#[tokio::test]
async fn a_full_disk_is_waited_out() {
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let made =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "moat-test"]).arg(&mount).status();
    if !made.is_ok_and(|status| status.success()) {
        moat_testkit::not_run("a_full_disk_is_waited_out", "no tmpfs can be mounted here");
        return;
    }
    let log = WorkloadLog::create(&mount, workload(), Rotation::default()).unwrap();
    std::fs::write(mount.join("ballast"), vec![0u8; 30 << 10]).unwrap();
    let publishing = watch::Sender::new(false);
    let bytes = Bytes::from(vec![b'x'; 50 << 10]);
    let id = sandbox(1);
    let append = log.append(&id, Stdout, 0, bytes.clone(), publishing.subscribe());
    let freed = async {
        let mut end = log.watch_end(Stdout);
        end.wait_for(|end| *end > 0).await.unwrap();
        std::fs::remove_file(mount.join("ballast")).unwrap();
    };
    let (outcome, ()) = tokio::join!(append, freed);
    let content = read_all(&log, 0);
    let unmounted = std::process::Command::new("umount").arg("-l").arg(&mount).status();
    outcome.unwrap();
    assert_eq!(content, bytes);
    assert!(unmounted.is_ok_and(|status| status.success()));
}
