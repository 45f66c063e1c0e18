//! JSON with places: serde's values do not know where they stood.

use std::collections::BTreeMap;

use crate::problem::{Fault, Place};

/// Nesting beyond which nobody writes job files; the reader is recursive.
const DEPTH_MAX: usize = 64;

/// A value as written.
#[derive(Debug, Clone)]
pub(crate) struct Json {
    pub place: Place,
    pub kind: JsonKind,
}

#[derive(Debug, Clone)]
pub(crate) enum JsonKind {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Map(BTreeMap<String, (Place, Json)>),
}

/// Reads a whole text.
pub(crate) fn parse(source: usize, text: &str) -> Result<Json, Fault> {
    let mut reader = Reader { source, text, at: 0 };
    let value = reader.value(0)?;
    reader.space();
    if reader.at < text.len() {
        return Err(reader.fault("nothing may follow the value"));
    }
    Ok(value)
}

struct Reader<'a> {
    source: usize,
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(Place::new(self.source, self.at..self.at + 1), format!("not JSON: {}", message.into()))
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.fault(format!("expected {:?}", char::from(byte))))
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json, Fault> {
        if depth > DEPTH_MAX {
            return Err(self.fault(format!("nested deeper than {DEPTH_MAX}")));
        }
        self.space();
        let start = self.at;
        let kind = match self.peek() {
            Some(b'{') => self.map(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => JsonKind::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => self.word()?,
        };
        Ok(Json { place: Place::new(self.source, start..self.at), kind })
    }

    fn word(&mut self) -> Result<JsonKind, Fault> {
        let words = [("null", JsonKind::Null), ("true", JsonKind::Bool(true)), ("false", JsonKind::Bool(false))];
        for (word, kind) in words {
            if self.rest().starts_with(word) {
                self.at += word.len();
                return Ok(kind);
            }
        }
        Err(self.fault("expected a value"))
    }

    fn number(&mut self) -> Result<JsonKind, Fault> {
        let end = self.rest().find(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c)).unwrap_or(self.rest().len());
        let parsed: Option<f64> = self.rest().get(..end).and_then(|text| text.parse().ok());
        match parsed.filter(|number| number.is_finite()) {
            Some(number) => {
                self.at += end;
                Ok(JsonKind::Number(number))
            }
            None => Err(self.fault("this is not a number")),
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        let start = self.at;
        self.expect(b'"')?;
        loop {
            match self.peek() {
                None => return Err(self.fault("a text does not end")),
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        let written = self.text.get(start..self.at).unwrap_or_default();
        serde_json::from_str(written).map_err(|e| {
            let place = Place::new(self.source, start..self.at);
            Fault::new(place, format!("not JSON: {e}"))
        })
    }

    fn list(&mut self, depth: usize) -> Result<JsonKind, Fault> {
        self.expect(b'[')?;
        let mut items = Vec::new();
        self.space();
        while self.peek() != Some(b']') {
            items.push(self.value(depth + 1)?);
            self.space();
            if self.peek() == Some(b']') {
                break;
            }
            self.expect(b',')?;
            self.space();
        }
        self.expect(b']')?;
        Ok(JsonKind::List(items))
    }

    fn map(&mut self, depth: usize) -> Result<JsonKind, Fault> {
        self.expect(b'{')?;
        let mut members = BTreeMap::new();
        self.space();
        while self.peek() != Some(b'}') {
            let start = self.at;
            let key = self.string()?;
            let place = Place::new(self.source, start..self.at);
            self.space();
            self.expect(b':')?;
            let value = self.value(depth + 1)?;
            if members.contains_key(&key) {
                return Err(Fault::new(place, format!("{key:?} is given twice")));
            }
            members.insert(key, (place, value));
            self.space();
            if self.peek() == Some(b'}') {
                break;
            }
            self.expect(b',')?;
            self.space();
        }
        self.expect(b'}')?;
        Ok(JsonKind::Map(members))
    }
}
