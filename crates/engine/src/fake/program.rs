//! A few words of shell, enough to be a program in a fake sandbox.
//!
//! Statements are separated by `;`: `echo <text> [>&2]`, `sleep <seconds>`, `head -c <bytes> /dev/zero`, `cat`, `cat /etc/machine-id`, `true`,
//! `false`, `exit <code>`, `trap '' <signal>…`, `kill -<signal> $$`. The program's status is that of the last one. Beside scripts
//! there is `env`, which writes its environment.

use std::time::Duration;

use bytes::Bytes;
use moat_agent::protocol::StreamName;
use moat_model::spec::Signal;
use moat_model::{Exit, ProcessSpec};

use super::FakeConfig;

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Writes.
    Write(StreamName, Bytes),
    /// Waits.
    Sleep(Duration),
    /// Copies standard input to standard output until its end.
    Cat,
    /// Ignores these signals from now on.
    Trap(Vec<i32>),
    /// Writes its machine id.
    Identity,
    /// Signals itself.
    Kill(i32),
    /// Sets the status.
    Status(i32),
    /// Ends.
    Exit(i32),
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program {
    /// What it does, in order.
    pub statements: Vec<Statement>,
}

/// The port of the program `listen`.
pub const ECHO_PORT: u16 = 7007;

impl Program {
    /// The program a process runs: a script if it is `sh -c <script>`, else what the configuration says. `None` if there is
    /// no such program.
    pub fn of(process: &ProcessSpec, config: &FakeConfig) -> Option<Self> {
        let name = process.command.rsplit('/').next().unwrap_or_default();
        match (name, process.args.as_slice()) {
            ("sh", [flag, script]) if flag == "-c" => Self::parse(script).map(|program| program.inside(config)),
            ("missing", _) => None,
            ("listen", []) => Some(Self {
                statements: vec![
                    Statement::Write(StreamName::Stdout, format!("{ECHO_PORT}\n").into()),
                    Statement::Sleep(Duration::MAX),
                ],
            }),
            ("env", []) => {
                let lines: String = process.env.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
                Some(Self { statements: vec![Statement::Write(StreamName::Stdout, lines.into()), Statement::Exit(0)] })
            }
            _ => Some(Self::from_config(config)),
        }
    }

    /// The same, knowing in which sandbox it runs.
    fn inside(self, config: &FakeConfig) -> Self {
        let known = |statement| match statement {
            Statement::Identity => {
                Statement::Write(StreamName::Stdout, Bytes::from(format!("{:032x}\n", config.identity)))
            }
            other => other,
        };
        Self { statements: self.statements.into_iter().map(known).collect() }
    }

    /// Reads a script.
    pub fn parse(script: &str) -> Option<Self> {
        let statements: Option<Vec<Statement>> =
            script.split(';').map(str::trim).filter(|text| !text.is_empty()).map(statement).collect();
        Some(Self { statements: statements? })
    }

    fn from_config(config: &FakeConfig) -> Self {
        let mut statements = Vec::new();
        if config.ignores_signals {
            statements.push(Statement::Trap((1..=64).filter(|signal| *signal != 9).collect()));
        }
        for line in &config.lines {
            statements.push(Statement::Write(StreamName::Stdout, Bytes::from(format!("{line}\n"))));
        }
        statements.push(Statement::Sleep(config.run_for.unwrap_or(Duration::MAX)));
        statements.push(Statement::Exit(config.exit_code));
        Self { statements }
    }

    /// The program as a schedule, for one that has no input: what it writes when, and how it ends by itself.
    pub fn schedule(&self) -> Schedule {
        let mut schedule = Schedule { writes: Vec::new(), traps: Vec::new(), end: None };
        let mut at = Duration::ZERO;
        let mut status = 0;
        for statement in &self.statements {
            match statement {
                Statement::Write(stream, bytes) => schedule.writes.push((at, *stream, bytes.clone())),
                Statement::Sleep(span) => match at.checked_add(*span) {
                    Some(later) if *span < Duration::MAX => at = later,
                    _ => return schedule,
                },
                Statement::Cat | Statement::Identity => {}
                Statement::Trap(signals) => schedule.traps.extend(signals.iter().map(|signal| (at, *signal))),
                Statement::Kill(signal) if schedule.ignores(*signal, at) => {}
                Statement::Kill(signal) => {
                    schedule.end = Some((at, Exit::signal(*signal)));
                    return schedule;
                }
                Statement::Status(code) => {
                    status = *code;
                    continue;
                }
                Statement::Exit(code) => {
                    schedule.end = Some((at, Exit::code(*code)));
                    return schedule;
                }
            }
            status = 0;
        }
        schedule.end = Some((at, Exit::code(status)));
        schedule
    }
}

/// What a program without input does when, counted from its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// What it writes.
    pub writes: Vec<(Duration, StreamName, Bytes)>,
    /// Signals it ignores from a moment on.
    pub traps: Vec<(Duration, i32)>,
    /// How it ends by itself, if it does.
    pub end: Option<(Duration, Exit)>,
}

impl Schedule {
    /// Whether a signal at a moment does nothing.
    pub fn ignores(&self, signal: i32, at: Duration) -> bool {
        self.traps.iter().any(|(from, trapped)| *trapped == signal && *from <= at)
    }
}

fn statement(text: &str) -> Option<Statement> {
    let words: Vec<&str> = text.split_whitespace().collect();
    Some(match words.as_slice() {
        ["echo", rest @ .., ">&2"] => Statement::Write(StreamName::Stderr, line(rest)),
        ["echo", rest @ ..] => Statement::Write(StreamName::Stdout, line(rest)),
        ["sleep", seconds] => Statement::Sleep(Duration::from_secs_f64(seconds.parse().ok()?)),
        ["head", "-c", count, "/dev/zero"] => {
            Statement::Write(StreamName::Stdout, Bytes::from(vec![0; count.parse().ok()?]))
        }
        ["cat"] => Statement::Cat,
        ["cat", "/etc/machine-id"] => Statement::Identity,
        ["true"] => Statement::Status(0),
        ["false"] => Statement::Status(1),
        ["exit", code] => Statement::Exit(code.parse().ok()?),
        ["trap", "''", signals @ ..] => {
            Statement::Trap(signals.iter().map(|name| Signal::parse(name).map(Signal::number)).collect::<Option<_>>()?)
        }
        ["kill", signal, "$$"] => Statement::Kill(Signal::parse(signal.strip_prefix('-')?)?.number()),
        _ => return None,
    })
}

fn line(words: &[&str]) -> Bytes {
    Bytes::from(format!("{}\n", words.join(" ").replace('\'', "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_becomes_a_schedule() {
        let program =
            Program::parse("echo one; trap '' TERM INT; sleep 0.5; echo two >&2; exit 3; echo never").unwrap();
        let schedule = program.schedule();
        let half = Duration::from_millis(500);
        assert_eq!(
            schedule.writes,
            [
                (Duration::ZERO, StreamName::Stdout, Bytes::from("one\n")),
                (half, StreamName::Stderr, Bytes::from("two\n"))
            ]
        );
        assert!(schedule.ignores(15, half) && !schedule.ignores(9, half));
        assert_eq!(schedule.end, Some((half, Exit::code(3))));
        assert_eq!(Program::parse("kill -TERM $$").unwrap().schedule().end, Some((Duration::ZERO, Exit::signal(15))));
        assert_eq!(Program::parse("false").unwrap().schedule().end, Some((Duration::ZERO, Exit::code(1))));
        assert_eq!(Program::parse("frobnicate"), None);
    }
}
