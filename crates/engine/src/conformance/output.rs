//! Cases about the output of a main process.

use moat_agent::protocol::{Offsets, StreamName};
use moat_model::Exit;

use super::bed::{Bed, Sandbox, within};
use super::{Fault, Verdict, ensure};

/// Reads up to `limit` bytes of standard output from an offset and acknowledges them.
async fn read_some(sandbox: &Sandbox, from: u64, limit: usize) -> Result<Vec<u8>, Fault> {
    let mut reader = within(sandbox.guest.output(Offsets { stdout: from, stderr: 0 })).await?;
    let mut taken = Vec::new();
    while taken.len() < limit {
        let Some(chunk) = within(reader.next()).await? else { break };
        if chunk.stream != StreamName::Stdout {
            continue;
        }
        let due = from + taken.len() as u64;
        ensure(chunk.offset == due, || format!("a chunk at {} where {due} was due", chunk.offset))?;
        taken.extend_from_slice(&chunk.bytes);
        let upto = Offsets { stdout: from + taken.len() as u64, stderr: 0 };
        within(reader.acknowledge(upto)).await?;
    }
    Ok(taken)
}

pub async fn exactly_once(bed: &Bed) -> Verdict {
    let script = "echo begin; head -c 400000 /dev/zero; echo end";
    let sandbox = bed.running(script).await?;
    let mut all = Vec::new();
    loop {
        let more = read_some(&sandbox, all.len() as u64, 70_000).await?;
        if more.is_empty() {
            break;
        }
        all.extend(more);
    }
    ensure(all.len() == 6 + 400_000 + 4, || format!("{} bytes", all.len()))?;
    ensure(all.starts_with(b"begin\n\0") && all.ends_with(b"\0end\n"), || "the ends are not in place".to_owned())?;
    let exit = sandbox.wait().await?;
    ensure(exit == Exit::code(0), || format!("ended with {exit:?}"))
}

pub async fn kept_after_end(bed: &Bed) -> Verdict {
    let sandbox = bed.running("echo one; sleep 0.2; echo two; exit 3").await?;
    let first = read_some(&sandbox, 0, 4).await?;
    ensure(first == b"one\n", || format!("first {:?}", String::from_utf8_lossy(&first)))?;
    let exit = sandbox.wait().await?;
    ensure(exit == Exit::code(3), || format!("ended with {exit:?}"))?;
    let rest = read_some(&sandbox, 4, usize::MAX).await?;
    ensure(rest == b"two\n", || format!("then {:?}", String::from_utf8_lossy(&rest)))?;
    let over = within(sandbox.guest.output(Offsets { stdout: 8, stderr: 0 })).await?;
    let mut over = over;
    let end = within(over.next()).await?;
    ensure(end.is_none(), || format!("after the end came {end:?}"))
}
