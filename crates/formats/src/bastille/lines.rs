//! Lines as a template means them: those that end with a backslash go on in the next.

use crate::problem::Place;

/// A line, joined with its continuations.
#[derive(Debug)]
pub(super) struct Line {
    /// Its characters, each with where it stands in the file.
    pub chars: Vec<(char, usize)>,
    /// Behind the last of them, in the file.
    pub end: usize,
    /// Which text it is from.
    pub source: usize,
    /// Where it begins, counted from 1.
    pub number: usize,
}

impl Line {
    /// From the character at `from` to the one before `to`.
    pub fn place(&self, from: usize, to: usize) -> Place {
        let offset = |at: usize| self.chars.get(at).map_or(self.end, |(_, offset)| *offset);
        // Behind the last one meant, not before the next: in between there may be the end of a line.
        let last = to.checked_sub(1).filter(|last| *last >= from).and_then(|last| self.chars.get(last));
        Place::new(self.source, offset(from)..last.map_or(offset(from), |(c, at)| at + c.len_utf8()))
    }

    /// What is left from `at` on, without the blanks around it.
    pub fn rest(&self, at: usize) -> String {
        self.chars.iter().skip(at).map(|(c, _)| *c).collect::<String>().trim().to_owned()
    }

    /// The next word that is nothing but characters up to a blank, and where the rest begins.
    pub fn bare_word(&self, at: usize) -> (usize, String, usize) {
        let blank = |(c, _): &&(char, usize)| is_blank(*c);
        let from = at + self.chars.iter().skip(at).take_while(blank).count();
        let word: String = self.chars.iter().skip(from).map(|(c, _)| *c).take_while(|c| !is_blank(*c)).collect();
        let after = from + word.chars().count();
        let rest = after + self.chars.iter().skip(after).take_while(blank).count();
        (from, word, rest)
    }
}

pub(super) fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

/// The lines of a text that say something. A comment that ends with a backslash goes on as well, as in Bastille.
pub(super) fn lines(text: &str, source: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut current: Option<Line> = None;
    let mut offset = 0;
    for (index, physical) in text.split('\n').enumerate() {
        let written = physical.strip_suffix('\r').unwrap_or(physical);
        let backslashes = written.len() - written.trim_end_matches('\\').len();
        // Two of them are one that was written.
        let goes_on = backslashes % 2 == 1;
        let kept = written.strip_suffix('\\').filter(|_| goes_on).unwrap_or(written);
        let mut line = current.take().unwrap_or(Line { chars: Vec::new(), end: offset, source, number: index + 1 });
        line.chars.extend(kept.char_indices().map(|(at, c)| (c, offset + at)));
        line.end = offset + kept.len();
        if goes_on {
            current = Some(line);
        } else {
            lines.push(line);
        }
        offset += physical.len() + 1;
    }
    lines.extend(current);
    lines.retain(|line| line.chars.iter().map(|(c, _)| *c).find(|c| !is_blank(*c)).is_some_and(|c| c != '#'));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continuations_join_and_comments_go() {
        let text = "A 1 \\\n  2\n\n# no\\\nstill no\n  # nor this\nB\\\\\nC \\\r\n3\r\nD \\";
        let read: Vec<_> = lines(text, 0).iter().map(|line| (line.number, line.rest(0))).collect();
        let expected = [(1, "A 1   2"), (7, "B\\\\"), (8, "C 3"), (10, "D")];
        assert_eq!(read, expected.map(|(number, text)| (number, text.to_owned())));
    }

    #[test]
    fn places_are_those_of_the_file() {
        let text = "A é\\\nxy z";
        let lines = lines(text, 0);
        let (from, word, rest) = lines[0].bare_word(1);
        assert_eq!((word.as_str(), rest), ("éxy", 6));
        let place = lines[0].place(from, from + 3);
        assert_eq!(&text[place.start..place.end], "é\\\nxy");
        let (from, word, _) = lines[0].bare_word(rest);
        let place = lines[0].place(from, from + 1);
        assert_eq!((&text[place.start..place.end], word.as_str()), ("z", "z"));
    }
}
