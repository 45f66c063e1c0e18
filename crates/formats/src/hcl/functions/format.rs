//! `format()`: Go's verbs, as far as texts, numbers and bools need them.

use super::{Arguments, Computed, Function, MANY};
use crate::hcl::operators;
use crate::tree::{Kind, Text, Value, number_text};

/// Characters a verb may be widened to.
const WIDTH_MAX: usize = 1024;
/// Digits behind the point.
const PRECISION_MAX: usize = 64;

pub(super) const FUNCTIONS: &[Function] = &[
    ("format", 1, MANY, |a| {
        let values: Vec<&Value> = a.all().iter().skip(1).collect();
        let text = format(&a.text(0)?, &values)?;
        a.spend(text.text.len())?;
        Ok(Kind::Text(text))
    }),
    ("formatlist", 1, MANY, formatlist),
];

/// The same for each item of lists that are given; what is no list is the same for all.
fn formatlist(arguments: &Arguments<'_>) -> Computed {
    let pattern = arguments.text(0)?;
    let given = arguments.all().get(1..).unwrap_or_default();
    let lengths: Vec<usize> =
        given.iter().filter_map(|v| if let Kind::List(items) = &v.kind { Some(items.len()) } else { None }).collect();
    let length = lengths.first().copied().unwrap_or(1);
    if lengths.iter().any(|other| *other != length) {
        return Err("the lists are not equally long".to_owned());
    }
    let mut out = Vec::new();
    for at in 0..length {
        let pick = |value: &'_ Value| -> Option<Value> {
            match &value.kind {
                Kind::List(items) => items.get(at).cloned(),
                _ => Some(value.clone()),
            }
        };
        let row: Vec<Value> = given.iter().filter_map(pick).collect();
        let text = format(&pattern, &row.iter().collect::<Vec<_>>())?;
        arguments.spend(text.text.len() + 16)?;
        out.push(arguments.made(Kind::Text(text)));
    }
    Ok(Kind::List(out))
}

#[derive(Default)]
struct Verb {
    minus: bool,
    plus: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

fn format(pattern: &str, values: &[&Value]) -> Result<Text, String> {
    let mut out = Text { text: String::new(), deferred: false };
    let mut chars = pattern.chars().peekable();
    let mut next = values.iter();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.text.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.text.push('%');
            continue;
        }
        let verb = flags(&mut chars)?;
        let letter = chars.next().ok_or("a % at the end")?;
        let value = next.next().ok_or("there are more verbs than values")?;
        let text = written(letter, &verb, value)?;
        out.deferred |= text.deferred;
        out.text.push_str(&padded(text.text, &verb));
    }
    if next.next().is_some() {
        return Err("there are more values than verbs".to_owned());
    }
    Ok(out)
}

fn flags(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Verb, String> {
    let mut verb = Verb::default();
    while let Some(flag) = chars.next_if(|c| "-+0 #".contains(*c)) {
        match flag {
            '-' => verb.minus = true,
            '+' => verb.plus = true,
            '0' => verb.zero = true,
            _ => {}
        }
    }
    verb.width = digits(chars).unwrap_or(0);
    if chars.next_if_eq(&'.').is_some() {
        verb.precision = Some(digits(chars).unwrap_or(0));
    }
    if verb.width > WIDTH_MAX || verb.precision.is_some_and(|precision| precision > PRECISION_MAX) {
        return Err(format!("a width is at most {WIDTH_MAX}, a precision at most {PRECISION_MAX}"));
    }
    Ok(verb)
}

fn digits(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<usize> {
    let mut text = String::new();
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        text.push(digit);
    }
    if text.is_empty() { None } else { Some(text.parse().unwrap_or(usize::MAX)) }
}

fn written(letter: char, verb: &Verb, value: &Value) -> Result<Text, String> {
    let number = || operators::number(value).map_err(|fault| fault.message);
    let plain = |text: String| Text { text, deferred: false };
    let signed = |text: String| if verb.plus && !text.starts_with('-') { format!("+{text}") } else { text };
    Ok(match letter {
        's' | 'v' => operators::text_of(value).map_err(|fault| fault.message)?,
        't' => plain(operators::truth(value).map_err(|fault| fault.message)?.to_string()),
        'q' => plain(format!("{:?}", operators::text(value).map_err(|fault| fault.message)?)),
        'd' => plain(signed(number_text(number()?.trunc()))),
        'f' => plain(signed(format!("{:.*}", verb.precision.unwrap_or(6), number()?))),
        'g' => plain(signed(number_text(number()?))),
        'e' => plain(signed(format!("{:.*e}", verb.precision.unwrap_or(6), number()?))),
        'x' | 'X' | 'o' | 'b' => {
            let whole: i64 = number_text(number()?.trunc()).parse().map_err(|_| "the number is too great")?;
            plain(match letter {
                'x' => format!("{whole:x}"),
                'X' => format!("{whole:X}"),
                'o' => format!("{whole:o}"),
                _ => format!("{whole:b}"),
            })
        }
        other => return Err(format!("there is no verb %{other}")),
    })
}

fn padded(text: String, verb: &Verb) -> String {
    let missing = verb.width.saturating_sub(text.chars().count());
    if verb.minus {
        return text + &" ".repeat(missing);
    }
    match text.strip_prefix('-') {
        Some(rest) if verb.zero => format!("-{}{rest}", "0".repeat(missing)),
        None if verb.zero => "0".repeat(missing) + &text,
        _ => " ".repeat(missing) + &text,
    }
}
