//! The older HCL that agents are configured in: quoted keys in blocks, and no expressions.

use std::collections::BTreeMap;

use crate::problem::{Fault, Place};
use crate::tree::{Block, Body, Kind, Member, Value};

/// Nesting beyond which nobody writes configuration; the reader is recursive.
const DEPTH_MAX: usize = 32;

/// Reads a whole text.
pub(crate) fn parse(source: usize, text: &str) -> Result<Body, Fault> {
    let mut reader = Reader { source, text, at: 0 };
    let mut body = Body::default();
    reader.items(&mut body, 0, false)?;
    body.place = Place::new(source, 0..text.len());
    Ok(body)
}

struct Reader<'a> {
    source: usize,
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn place(&self, start: usize) -> Place {
        Place::new(self.source, start..self.at)
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(Place::new(self.source, self.at..self.at + 1), format!("not HCL: {}", message.into()))
    }

    /// White space, commas where they stand between items, and comments.
    fn space(&mut self, commas: bool) -> Result<(), Fault> {
        loop {
            let rest = self.rest();
            match rest.chars().next() {
                Some(c) if c.is_whitespace() || (commas && c == ',') => self.at += c.len_utf8(),
                Some('#') => self.line(),
                Some('/') if rest.starts_with("//") => self.line(),
                Some('/') if rest.starts_with("/*") => match rest.find("*/") {
                    Some(end) => self.at += end + 2,
                    None => return Err(self.fault("a comment does not end")),
                },
                _ => return Ok(()),
            }
        }
    }

    fn line(&mut self) {
        self.at += self.rest().find('\n').unwrap_or(self.rest().len());
    }

    fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    /// Items up to the brace, or the end of the text.
    fn items(&mut self, body: &mut Body, depth: usize, braced: bool) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(self.fault(format!("nested deeper than {DEPTH_MAX}")));
        }
        loop {
            self.space(true)?;
            if self.peek().is_none() {
                return if braced { Err(self.fault("a block does not end: } is missing")) } else { Ok(()) };
            }
            if braced && self.take('}') {
                return Ok(());
            }
            self.item(body, depth)?;
        }
    }

    fn item(&mut self, body: &mut Body, depth: usize) -> Result<(), Fault> {
        let start = self.at;
        let key = self.word()?;
        let key_place = self.place(start);
        let mut labels = Vec::new();
        loop {
            self.space(false)?;
            let here = self.at;
            if self.take('=') || self.take(':') {
                if !labels.is_empty() {
                    return Err(self.fault("a key with labels is a block: { is expected"));
                }
                let value = self.value(depth + 1)?;
                let member = Member { place: key_place, value };
                if body.attributes.insert(key.clone(), member).is_some() {
                    return Err(Fault::new(key_place, format!("{key:?} is given twice")));
                }
                return Ok(());
            }
            if self.take('{') {
                let mut inner = Body::default();
                self.items(&mut inner, depth + 1, true)?;
                inner.place = self.place(here);
                let end = labels.last().map_or(key_place.end, |(_, place): &(String, Place)| place.end);
                body.blocks.push(Block { kind: key, place: Place { end, ..key_place }, labels, body: inner });
                return Ok(());
            }
            let label = self.word()?;
            labels.push((label, self.place(here)));
        }
    }

    /// A key: plain or quoted.
    fn word(&mut self) -> Result<String, Fault> {
        if self.peek() == Some('"') {
            return self.string();
        }
        let word = |c: char| c.is_alphanumeric() || "_-.".contains(c);
        let end = self.rest().find(|c| !word(c)).unwrap_or(self.rest().len());
        match self.rest().get(..end).filter(|word| !word.is_empty()) {
            Some(word) => {
                self.at += end;
                Ok(word.to_owned())
            }
            None => Err(self.fault("expected a key")),
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        let start = self.at;
        self.at += 1;
        let mut out = String::new();
        loop {
            let Some(c) = self.peek().filter(|c| *c != '\n') else {
                return Err(Fault::new(self.place(start), "not HCL: a text does not end in its line"));
            };
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(out),
                '\\' => {
                    let escaped = self.peek();
                    self.at += escaped.map_or(0, char::len_utf8);
                    out.push(match escaped {
                        Some('n') => '\n',
                        Some('t') => '\t',
                        Some(same @ ('"' | '\\')) => same,
                        _ => return Err(self.fault("the escapes are \\n, \\t, \\\" and \\\\")),
                    });
                }
                c => out.push(c),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        if depth > DEPTH_MAX {
            return Err(self.fault(format!("nested deeper than {DEPTH_MAX}")));
        }
        self.space(false)?;
        let start = self.at;
        let kind = match self.peek() {
            Some('"') => Kind::text(self.string()?),
            Some('[') => {
                self.at += 1;
                let mut items = Vec::new();
                loop {
                    self.space(true)?;
                    if self.take(']') {
                        break Kind::List(items);
                    }
                    items.push(self.value(depth + 1)?);
                }
            }
            Some('{') => {
                self.at += 1;
                let mut body = Body::default();
                self.items(&mut body, depth + 1, true)?;
                Kind::Map(members(body))
            }
            Some('<') if self.rest().starts_with("<<") => Kind::text(self.heredoc()?),
            _ => self.bare()?,
        };
        Ok(Value { place: self.place(start), kind })
    }

    fn bare(&mut self) -> Result<Kind, Fault> {
        let start = self.at;
        let word = self.word()?;
        match word.as_str() {
            "true" => Ok(Kind::Bool(true)),
            "false" => Ok(Kind::Bool(false)),
            number => match number.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Kind::Number(number)),
                _ => Err(Fault::new(
                    self.place(start),
                    format!("not HCL: {word:?} is not a value: texts stand in quotes"),
                )),
            },
        }
    }

    fn heredoc(&mut self) -> Result<String, Fault> {
        let start = self.at;
        let head_end = self.rest().find('\n').ok_or_else(|| self.fault("a heredoc does not end"))?;
        let head = self.rest().get(2..head_end).unwrap_or_default().trim();
        let marker = head.trim_start_matches('-').to_owned();
        self.at += head_end + 1;
        let mut out = String::new();
        loop {
            let rest = self.rest();
            if rest.is_empty() || marker.is_empty() {
                return Err(Fault::new(self.place(start), "not HCL: a heredoc does not end"));
            }
            let end = rest.find('\n').map_or(rest.len(), |end| end + 1);
            let line = rest.get(..end).unwrap_or_default();
            self.at += end;
            if line.trim() == marker {
                return Ok(out);
            }
            out.push_str(line);
        }
    }
}

/// A map's members; blocks in it are maps, too.
fn members(body: Body) -> BTreeMap<String, Member> {
    let mut out = body.attributes;
    for block in body.blocks {
        let value = Value::new(block.body.place, Kind::Map(members(block.body)));
        out.insert(block.kind, Member { place: block.place, value });
    }
    out
}
