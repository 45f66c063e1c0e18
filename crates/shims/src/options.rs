//! Options in the way of getopt(3): letters, each perhaps with a value, until the first word that is none.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// Reads the options at the front of arguments.
#[derive(Debug)]
pub struct Options<'a> {
    arguments: &'a [OsString],
    /// Letters; a colon behind one says that it takes a value.
    letters: &'static str,
    next: usize,
    /// Where in a word of several letters it goes on.
    within: usize,
}

impl<'a> Options<'a> {
    /// Options of `arguments`, as `letters` says.
    pub fn new(arguments: &'a [OsString], letters: &'static str) -> Self {
        Self { arguments, letters, next: 0, within: 0 }
    }

    /// The next option and its value, if it takes one.
    pub fn next(&mut self) -> Result<Option<(char, OsString)>, String> {
        let Some(word) = self.arguments.get(self.next).map(|word| word.as_bytes()) else { return Ok(None) };
        if self.within == 0 {
            if word == b"--" {
                self.next += 1;
                return Ok(None);
            }
            if word.len() < 2 || !word.starts_with(b"-") {
                return Ok(None);
            }
            self.within = 1;
        }
        let letter = word.get(self.within).copied().map_or('?', char::from);
        let rest = word.get(self.within + 1..).unwrap_or_default();
        let at = self.letters.find(letter).filter(|_| letter != ':' && letter.is_ascii());
        let Some(at) = at else { return Err(format!("illegal option -- {letter}")) };
        let takes_value = self.letters.get(at + 1..).is_some_and(|rest| rest.starts_with(':'));
        if !takes_value {
            self.within += 1;
            if rest.is_empty() {
                self.step();
            }
            return Ok(Some((letter, OsString::new())));
        }
        let value = if rest.is_empty() {
            self.next += 1;
            self.arguments.get(self.next).cloned().ok_or_else(|| format!("option requires an argument -- {letter}"))?
        } else {
            OsString::from_vec(rest.to_vec())
        };
        self.step();
        Ok(Some((letter, value)))
    }

    fn step(&mut self) {
        self.next += 1;
        self.within = 0;
    }

    /// What comes after the options.
    pub fn rest(&self) -> &'a [OsString] {
        self.arguments.get(self.next..).unwrap_or_default()
    }
}

/// An argument as text; what is not UTF-8 is refused, as no file that is edited here could hold it.
pub fn text(value: &OsStr) -> Result<String, String> {
    value.to_str().map(str::to_owned).ok_or_else(|| format!("{}: is not UTF-8", value.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Found = (Vec<(char, String)>, Vec<String>);

    fn read(words: &[&str], letters: &'static str) -> Result<Found, String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let mut options = Options::new(&words, letters);
        let mut found = Vec::new();
        while let Some((letter, value)) = options.next()? {
            found.push((letter, text(&value)?));
        }
        let rest = options.rest().iter().map(|word| text(word)).collect::<Result<_, _>>()?;
        Ok((found, rest))
    }

    #[test]
    fn letters_values_and_the_rest() {
        let (found, rest) = read(&["-ab", "-fx", "-f", "y", "-a", "z", "-b"], "abf:").unwrap();
        let found: Vec<(char, &str)> = found.iter().map(|(letter, value)| (*letter, value.as_str())).collect();
        assert_eq!(found, [('a', ""), ('b', ""), ('f', "x"), ('f', "y"), ('a', "")]);
        assert_eq!(rest, ["z", "-b"]);
        assert_eq!(read(&["-a", "--", "-b"], "ab").unwrap().1, ["-b"]);
        assert_eq!(read(&["-h", "-"], "h:").unwrap().0, [('h', "-".to_owned())]);
        assert_eq!(read(&["-"], "a").unwrap().1, ["-"]);
    }

    #[test]
    fn what_is_not_an_option_is_refused() {
        assert_eq!(read(&["-x"], "a").unwrap_err(), "illegal option -- x");
        assert_eq!(read(&["-:"], "a:").unwrap_err(), "illegal option -- :");
        assert_eq!(read(&["-a"], "a:").unwrap_err(), "option requires an argument -- a");
    }
}
