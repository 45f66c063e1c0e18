//! `docs/seccomp.md`, from the table.

use std::fmt::Write;

use super::table::{self, Arguments, Call, Condition};

/// Run with `MOAT_REGENERATE=1` to write the file anew.
#[test]
fn docs_seccomp_md_is_what_the_table_says() {
    if cfg!(not(target_arch = "x86_64")) {
        return moat_testkit::not_run(
            "docs/seccomp.md",
            "the document is generated on x86-64, where the table has all calls",
        );
    }
    let file = moat_testkit::workspace_root().join("docs/seccomp.md");
    let said = render();
    if std::env::var_os("MOAT_REGENERATE").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &said).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == said, "{} is not what the table says: run cargo xtask gen", file.display());
}

fn render() -> String {
    let mut text = String::from(
        "# System calls a sandbox may make\n\n\
         Generated from `crates/drivers/src/linux/seccomp/table.rs`; a test compares the two (`cargo xtask gen` writes it anew).\n\n\
         The container driver installs this before every program it starts, the main one and every exec. Whatever is not\n\
         listed fails with `EPERM`. `clone3` and calls numbered above ",
    );
    let _ = writeln!(
        text,
        "{} fail with `ENOSYS`, so that a libc falls back to older\nones. A call through another architecture's entry (32-bit x86) kills the process; x32 numbers fail with `EPERM`.\n",
        table::LAST_KNOWN
    );
    section(&mut text, "Allowed", table::ALLOWED);
    section(&mut text, "Allowed on x86-64, where they still exist", table::ALLOWED_LEGACY);
    conditional(&mut text);
    opened(&mut text);
    text
}

fn section(text: &mut String, title: &str, calls: &[Call]) {
    let _ = writeln!(text, "## {title}\n\n{}\n", wrapped(calls));
}

fn plain(call: &Call) -> &str {
    call.0.strip_prefix("SYS_").unwrap_or(call.0)
}

fn wrapped(calls: &[Call]) -> String {
    let mut names: Vec<&str> = calls.iter().map(plain).collect();
    names.sort_unstable();
    let mut text = String::new();
    let mut width = 0;
    for name in names {
        if width + name.len() > 110 {
            text.push('\n');
            width = 0;
        } else if width > 0 {
            text.push(' ');
        }
        text += &format!("`{name}`");
        width += name.len() + 3;
    }
    text
}

fn conditional(text: &mut String) {
    text.push_str("## Allowed with some arguments only\n\n| call | condition | why | lifted by |\n|---|---|---|---|\n");
    for row in table::CONDITIONAL {
        let hex = |values: &[u32]| values.iter().map(|v| format!("{v:#x}")).collect::<Vec<_>>().join(", ");
        let condition = match &row.arguments {
            Arguments::OneOf { at, values } => format!("argument {at} is one of {}", hex(values)),
            Arguments::NoneOf { at, values } => format!("argument {at} is none of {}", hex(values)),
            Arguments::WithoutBits { at, mask } => format!("argument {at} has no bit of {mask:#x}"),
            Arguments::Sockets => table::FAMILIES.iter().map(socket).collect::<Vec<_>>().join(", "),
        };
        let lifted = row.lifted_by.map_or_else(|| "nothing".to_owned(), |name| format!("`{name}`"));
        let _ = writeln!(text, "| `{}` | {condition} | {} | {lifted} |", plain(&row.call), row.why);
    }
    text.push('\n');
}

fn socket(condition: &Condition) -> String {
    condition.protocol.map_or_else(|| condition.family.0.to_owned(), |p| format!("{} with {}", condition.family.0, p.0))
}

fn opened(text: &mut String) {
    text.push_str("## Opened by a capability\n\n| capability | opens |\n|---|---|\n");
    for row in table::OPENED {
        let _ = writeln!(text, "| `{}` | {} |", row.capability, wrapped(row.calls).replace('\n', " "));
    }
    for (capability, condition) in table::FAMILIES_OPENED {
        let _ = writeln!(text, "| `{capability}` | `socket` with {} |", socket(condition));
    }
    text.push_str(
        "\nStays closed whatever is granted: the kernel honours the capability only in the first user namespace, or the call\n\
         has too long a record of being the way out. `acct` `add_key` `bpf` `clock_settime` `delete_module` `fanotify_init`\n\
         `finit_module` `init_module` `io_uring_*` `ioperm` `iopl` `kexec_*` `keyctl` `lookup_dcookie` `move_pages`\n\
         `open_by_handle_at` `perf_event_open` `quotactl` `reboot` `request_key` `settimeofday` `swapoff` `swapon` `syslog`\n\
         `userfaultfd`, and everything obsolete.\n",
    );
}
