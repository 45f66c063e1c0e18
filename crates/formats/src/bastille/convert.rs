//! Templates of the old form, one file for each hook, as one `Bastillefile`.

use std::fmt::Write as _;

/// Files of the old form, in the order in which they were applied.
pub const HOOKS: [&str; 14] = [
    "ARG", "LIMITS", "INCLUDE", "PRE", "FSTAB", "MOUNT", "PF", "PKG", "OVERLAY", "CP", "SYSRC", "SERVICE", "CMD",
    "RENDER",
];

/// Words with which a command goes on in the next line.
const OPENERS: [&str; 7] = ["if", "for", "while", "until", "case", "function", "{"];

/// What became of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The Bastillefile.
    pub text: String,
    /// What somebody must look at.
    pub warnings: Vec<String>,
}

/// Makes a `Bastillefile` of hooks: their names and what is in them. The files stay as they are. Names that are no hooks are
/// payload and left out.
pub fn convert(hooks: &[(String, String)]) -> Converted {
    let mut converted = Converted { text: String::new(), warnings: Vec::new() };
    for name in HOOKS {
        let Some((_, text)) = hooks.iter().find(|(given, _)| given == name) else { continue };
        // What ran before packages were there is a command like any other.
        let verb = if name == "PRE" { "CMD" } else { name };
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| is_meant(line)).collect();
        if name == "PF" {
            let warning = "PF: rules of packets are the node's; write RDR for ports that lead to the jail";
            converted.warnings.push(warning.to_owned());
            continue;
        }
        if !lines.is_empty() && !converted.text.is_empty() {
            converted.text.push('\n');
        }
        if verb == "CMD" && is_script(&lines) {
            let warning = format!(
                "{name}: the file is one script, and each of its lines has become a command of its own; \
                copy it into the jail with CP and run it with CMD"
            );
            converted.warnings.push(warning);
        }
        for line in lines {
            // Writing to a String cannot fail.
            let _ = writeln!(converted.text, "{verb} {line}");
        }
    }
    if converted.text.is_empty() {
        converted.warnings.push(format!("there is nothing to convert: no file of {}", HOOKS.join(", ")));
    }
    converted
}

fn is_meant(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('#')
}

/// Whether lines depend on each other, as far as one can see.
fn is_script(lines: &[&str]) -> bool {
    lines.iter().any(|line| {
        let first = line.split([' ', '\t', ';']).next().unwrap_or_default();
        let sets = first.split_once('=').is_some_and(|(name, _)| super::words::is_valid_name(name)) && first == *line;
        OPENERS.contains(&first) || matches!(first, "cd" | "export" | "set") || sets || line.contains("<<")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn hooks_become_lines_in_the_order_they_were_applied() {
        let files = [
            ("CMD", "echo \"a  b\"\n\n# comment\n  touch /x\n"),
            ("PKG", "nginx\ngit go\n"),
            ("PRE", "mkdir -p /usr/local/etc"),
            ("README.md", "payload"),
            ("SYSRC", "nginx_enable=YES\r\n"),
            ("SERVICE", "nginx restart"),
            ("OVERLAY", "usr"),
            ("INCLUDE", "https://example.com/u/r"),
        ];
        let converted = convert(&hooks(&files));
        let expected = "INCLUDE https://example.com/u/r\n\nCMD mkdir -p /usr/local/etc\n\nPKG nginx\nPKG git go\n\nOVERLAY usr\n\n\
            SYSRC nginx_enable=YES\n\nSERVICE nginx restart\n\nCMD echo \"a  b\"\nCMD touch /x\n";
        assert_eq!(converted, Converted { text: expected.to_owned(), warnings: Vec::new() });
    }

    #[test]
    fn what_somebody_must_look_at_is_said() {
        let warned = |files: &[(&str, &str)]| convert(&hooks(files)).warnings.len();
        assert_eq!(warned(&[("CMD", "if true; then\necho\nfi")]), 1);
        assert_eq!(warned(&[("CMD", "A=1\necho $A")]), 1);
        assert_eq!(warned(&[("CMD", "A=1 make")]), 0);
        assert_eq!(warned(&[("PF", "pass in all"), ("PKG", "git")]), 1);
        assert_eq!(warned(&[("notes", "x")]), 1);
    }
}
