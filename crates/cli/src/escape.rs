//! The way out of a terminal session: `~.` at the beginning of a line, as in `ssh`, or another character than `~`.

/// What has been typed on this line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    LineStart,
    Tilde,
    Inside,
}

/// Watches what is typed.
#[derive(Debug, Clone)]
pub struct Escape {
    state: State,
    /// None: there is no way out.
    character: Option<u8>,
}

impl Default for Escape {
    fn default() -> Self {
        Self { state: State::LineStart, character: Some(b'~') }
    }
}

/// What is to be done with what was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed {
    /// To be sent on.
    pub bytes: Vec<u8>,
    /// The user wants out.
    pub leave: bool,
}

impl Escape {
    /// From what is written on the command line: one character, or `none`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let character = match text.as_bytes() {
            b"none" => None,
            [one] if one.is_ascii_graphic() => Some(*one),
            _ => return Err(format!("{text:?} is neither one character nor none")),
        };
        Ok(Self { character, ..Self::default() })
    }

    /// Takes what was typed. A tilde at the beginning of a line is held back until it is clear what it means; `~~` is one
    /// tilde.
    pub fn typed(&mut self, input: &[u8]) -> Typed {
        let Some(escape) = self.character else { return Typed { bytes: input.to_vec(), leave: false } };
        let mut bytes = Vec::with_capacity(input.len() + 1);
        for &byte in input {
            match (self.state, byte) {
                (State::LineStart, byte) if byte == escape => {
                    self.state = State::Tilde;
                    continue;
                }
                (State::Tilde, b'.') => return Typed { bytes, leave: true },
                (State::Tilde, byte) if byte == escape => {}
                (State::Tilde, _) => bytes.push(escape),
                _ => {}
            }
            bytes.push(byte);
            self.state = if matches!(byte, b'\r' | b'\n') { State::LineStart } else { State::Inside };
        }
        Typed { bytes, leave: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_in(pieces: &[&str]) -> (String, bool) {
        let mut escape = Escape::default();
        let mut all = Vec::new();
        for piece in pieces {
            let typed = escape.typed(piece.as_bytes());
            all.extend(typed.bytes);
            if typed.leave {
                return (String::from_utf8(all).unwrap(), true);
            }
        }
        (String::from_utf8(all).unwrap(), false)
    }

    #[test]
    fn tilde_dot_leaves_only_at_the_beginning_of_a_line() {
        assert_eq!(type_in(&["~."]), (String::new(), true));
        assert_eq!(type_in(&["ls\r", "~", "."]), ("ls\r".to_owned(), true));
        assert_eq!(type_in(&["a~.\r"]), ("a~.\r".to_owned(), false));
        assert_eq!(type_in(&["~~.\r"]), ("~.\r".to_owned(), false));
        assert_eq!(type_in(&["~", "x"]), ("~x".to_owned(), false));
        assert_eq!(type_in(&["~\r~."]), ("~\r".to_owned(), true));
    }

    #[test]
    fn the_character_is_the_users_choice() {
        let typed = |choice: &str, text: &str| Escape::parse(choice).unwrap().typed(text.as_bytes());
        assert!(typed("%", "%.").leave && !typed("%", "~.").leave);
        assert_eq!(typed("none", "~."), Typed { bytes: b"~.".to_vec(), leave: false });
        assert!(Escape::parse("ab").is_err() && Escape::parse("").is_err());
    }
}
