//! Functions that write and read formats, and that take digests.

use data_encoding::{BASE64, HEXLOWER};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::{Arguments, Computed, Function};
use crate::json::{Json, JsonKind};
use crate::tree::{Kind, Member, Value};

pub(super) const FUNCTIONS: &[Function] = &[
    ("base64decode", 1, 1, |a| {
        let bytes = BASE64.decode(a.text(0)?.trim().as_bytes()).map_err(|_| "this is not base64")?;
        String::from_utf8(bytes).map(Kind::text).map_err(|_| "what it holds is not a text".to_owned())
    }),
    ("base64encode", 1, 1, |a| Ok(Kind::text(BASE64.encode(a.text(0)?.as_bytes())))),
    ("csvdecode", 1, 1, csvdecode),
    ("jsondecode", 1, 1, |a| {
        let text = a.text(0)?;
        let json = crate::json::parse(a.place.source, &text).map_err(|fault| fault.message)?;
        Ok(from_json(json, a).kind)
    }),
    ("jsonencode", 1, 1, |a| {
        let json = to_json(a.value(0)?)?.to_string();
        a.spend(json.len())?;
        Ok(Kind::text(json))
    }),
    ("md5", 1, 1, |a| digest::<Md5>(&a.text(0)?)),
    ("sha1", 1, 1, |a| digest::<Sha1>(&a.text(0)?)),
    ("sha256", 1, 1, |a| digest::<Sha256>(&a.text(0)?)),
    ("sha512", 1, 1, |a| digest::<Sha512>(&a.text(0)?)),
    ("urlencode", 1, 1, |a| Ok(Kind::text(urlencode(&a.text(0)?)))),
];

fn digest<D: Digest>(text: &str) -> Computed {
    Ok(Kind::text(HEXLOWER.encode(&D::digest(text.as_bytes()))))
}

fn urlencode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn from_json(json: Json, arguments: &Arguments<'_>) -> Value {
    arguments.made(match json.kind {
        JsonKind::Null => Kind::Null,
        JsonKind::Bool(value) => Kind::Bool(value),
        JsonKind::Number(number) => Kind::Number(number),
        JsonKind::Text(text) => Kind::text(text),
        JsonKind::List(items) => Kind::List(items.into_iter().map(|item| from_json(item, arguments)).collect()),
        JsonKind::Map(members) => {
            let place = arguments.place;
            let member = |(key, (_, value))| (key, Member { place, value: from_json(value, arguments) });
            Kind::Map(members.into_iter().map(member).collect())
        }
    })
}

fn to_json(value: &Value) -> Result<serde_json::Value, String> {
    use serde_json::Value as Out;
    Ok(match &value.kind {
        Kind::Null | Kind::Broken => Out::Null,
        Kind::Bool(value) => Out::Bool(*value),
        // Whole numbers without a point, as everybody writes them.
        Kind::Number(number) => serde_json::from_str(&crate::tree::number_text(*number))
            .map_err(|_| "a number JSON cannot hold".to_owned())?,
        Kind::Text(text) if text.deferred => {
            return Err("a part of it is known only on a node, which would not escape it".to_owned());
        }
        Kind::Text(text) => Out::String(text.text.clone()),
        Kind::List(items) => Out::Array(items.iter().map(to_json).collect::<Result<_, _>>()?),
        Kind::Map(members) => {
            let member = |(key, member): (&String, &Member)| Ok((key.clone(), to_json(&member.value)?));
            Out::Object(members.iter().map(member).collect::<Result<_, String>>()?)
        }
    })
}

/// Rows as maps, keys from the first.
fn csvdecode(arguments: &Arguments<'_>) -> Computed {
    let text = arguments.text(0)?;
    let mut rows = csv(&text)?.into_iter();
    let header = rows.next().ok_or("there is no first line with the names")?;
    let mut out = Vec::new();
    for row in rows {
        if row.len() != header.len() {
            return Err(format!(
                "line {} has {} fields, and there are {} names",
                out.len() + 2,
                row.len(),
                header.len()
            ));
        }
        arguments.spend(header.iter().map(|name| name.len() + 32).sum())?;
        let member = |(name, field): (&String, String)| {
            (name.clone(), Member { place: arguments.place, value: arguments.made(Kind::text(field)) })
        };
        out.push(arguments.made(Kind::Map(header.iter().zip(row).map(member).collect())));
    }
    Ok(Kind::List(out))
}

fn csv(text: &str) -> Result<Vec<Vec<String>>, String> {
    let (mut rows, mut row, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut field)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                if !(row.is_empty() && field.is_empty()) {
                    row.push(std::mem::take(&mut field));
                    rows.push(std::mem::take(&mut row));
                }
            }
            c => field.push(c),
        }
    }
    if quoted {
        return Err("a quoted field does not end".to_owned());
    }
    if !(row.is_empty() && field.is_empty()) {
        row.push(field);
        rows.push(row);
    }
    Ok(rows)
}
