use moat_agent::protocol::StreamName;

use super::*;
use crate::logfile::{Rotation, TaskLog};

fn sandbox(n: u8) -> SandboxId {
    SandboxId::from_parts(Timestamp::from_millis(1), [n; 10])
}

fn read_all(log: &TaskLog, stream: StreamName, mut at: u64) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let piece = log.read(stream, at, 1000).unwrap();
        if piece.bytes.is_empty() {
            return all;
        }
        assert_eq!(piece.at, at, "nothing is skipped");
        at += piece.bytes.len() as u64;
        all.extend_from_slice(&piece.bytes);
    }
}

#[test]
fn l01_files_begin_go_on_and_are_deleted_at_the_boundary() {
    let dir = tempfile::tempdir().unwrap();
    let rotation = Rotation { files_max: 3, file_bytes_max: 100 };
    let log = TaskLog::open(dir.path(), "web", rotation).unwrap();
    log.append(&sandbox(1), StreamName::Stdout, 0, &[b'a'; 100]).unwrap();
    assert!(dir.path().join("web.stdout.0").exists() && !dir.path().join("web.stdout.1").exists());
    log.append(&sandbox(1), StreamName::Stdout, 100, &[b'b'; 250]).unwrap();
    assert!(dir.path().join("web.stdout.3").exists() && !dir.path().join("web.stdout.0").exists());
    drop(log);
    let log = TaskLog::open(dir.path(), "web", rotation).unwrap();
    assert_eq!(log.bounds(StreamName::Stdout), (100, 350));
    // A task that was started again writes on where the last one ended; what is told twice is there once.
    log.append(&sandbox(2), StreamName::Stdout, 0, b"again").unwrap();
    log.append(&sandbox(2), StreamName::Stdout, 0, b"again").unwrap();
    assert_eq!(log.bounds(StreamName::Stdout).1, 355);
    assert!(TaskLog::open(&dir.path().join("none"), "web", rotation).is_err());
}

#[test]
fn l04_a_line_is_never_split_and_l02_nothing_is_lost_by_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let rotation = Rotation { files_max: 100, file_bytes_max: 4096 };
    let mut text = Vec::new();
    for n in 0..2000 {
        text.extend_from_slice(format!("{n}:{}\n", "x".repeat(n % 90)).as_bytes());
    }
    for (n, piece) in text.chunks(777).enumerate() {
        // Another daemon for every piece.
        let log = TaskLog::open(dir.path(), "t", rotation).unwrap();
        log.append(&sandbox(1), StreamName::Stdout, n as u64 * 777, piece).unwrap();
    }
    let log = TaskLog::open(dir.path(), "t", rotation).unwrap();
    assert_eq!(read_all(&log, StreamName::Stdout, 0), text);
    let mut files = 0;
    for n in 0.. {
        let Ok(bytes) = std::fs::read(dir.path().join(format!("t.stdout.{n}"))) else { break };
        assert_eq!(bytes.last(), Some(&b'\n'), "file {n} ends with a line");
        files += 1;
    }
    assert!(files > 3, "{files}");
    let last = read_all(&log, StreamName::Stdout, log.tail(StreamName::Stdout, 1).unwrap());
    assert_eq!(last, text.split_inclusive(|byte| *byte == b'\n').next_back().unwrap());
}

#[tokio::test]
async fn l05_and_l03_readers_follow_both_streams_over_rotations() {
    let dir = tempfile::tempdir().unwrap();
    let world = FakeWorld::new(Default::default());
    let bed = Bed::fake(dir.path(), &world, false).await;
    let mut main = sh("main", "echo first; echo wrong >&2; head -c 4000000 /dev/zero; echo last; echo wrong too >&2");
    main.logs = LogLimits { max_files: 10, max_file_size_mb: 1, disabled: false };
    let job = job(JobType::Batch, group(vec![main]));
    bed.allocations.assign(assignment(1, &job)).await.unwrap();
    bed.when(1, "its program has started", |view| view.status.tasks["main"].started.is_some()).await;
    let follow = |stream| LogsWanted { task: "main".to_owned(), stream, from: Origin::Start(0), follow: true };
    let mut lengths = Vec::new();
    for (stream, begins, ends) in
        [(StreamName::Stdout, "first\n", "last\n"), (StreamName::Stderr, "wrong\n", "wrong too\n")]
    {
        let mut pieces = bed.allocations.logs(&alloc_id(1), follow(stream)).await.unwrap();
        let mut all: Vec<u8> = Vec::new();
        while let Some(piece) = pieces.recv().await {
            let piece = piece.unwrap();
            assert_eq!(piece.offset, all.len() as u64, "no loss, no repeat");
            all.extend_from_slice(&piece.bytes);
        }
        assert!(all.starts_with(begins.as_bytes()) && all.ends_with(ends.as_bytes()), "{stream:?}");
        lengths.push(all.len());
    }
    assert_eq!(lengths, [4_000_011, 16]);
    assert!(dir.path().join(format!("alloc/{}/alloc/logs/main.stdout.3", alloc_id(1))).exists());
    bed.close().await;
}
