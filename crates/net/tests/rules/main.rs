//! What the kernel lets pass, compared with what is promised. In network namespaces of the tests' own.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod agrees;
mod bed;
mod live;
mod matrix;
mod names;
mod packet;
mod published;

/// Runs a test on a thread of its own, which may enter namespaces: those its runtime starts inherit them. Only root can.
fn in_spaces(test: impl AsyncFnOnce() + Send + 'static) {
    if !moat_testkit::is_root() {
        return moat_testkit::not_run_here("namespaces are root's");
    }
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}
