//! The child as a program of its own, for this crate's tests: what is shipped calls the same function from `moat` itself.

fn main() -> std::process::ExitCode {
    moat_getter::child::main()
}
