//! Functions of time. What time it is the caller says.

use ::time::format_description::well_known::Rfc3339;
use ::time::{Duration, OffsetDateTime, UtcOffset};

use super::{Arguments, Computed, Function};
use crate::tree::Kind;

pub(super) const FUNCTIONS: &[Function] = &[
    ("formatdate", 2, 2, formatdate),
    ("timeadd", 2, 2, |a| {
        let (moment, text) = (moment(&a.text(0)?)?, a.text(1)?);
        let (sign, digits) = text.strip_prefix('-').map_or((1, text.as_str()), |digits| (-1, digits));
        let span = crate::span::parse(digits).ok_or_else(|| format!("{text:?} is no span such as \"1h30m\""))?;
        let span = Duration::try_from(span).map_err(|_| "too long a span".to_owned())?;
        let sum = moment.checked_add(span * sign).ok_or("this lies outside the calendar")?;
        written(sum)
    }),
    ("timestamp", 0, 0, |a| {
        let now = OffsetDateTime::from_unix_timestamp(a.around.now()?).map_err(|e| e.to_string())?;
        written(now)
    }),
];

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| format!("{text:?} is no moment such as 2026-01-31T12:00:00Z"))
}

fn written(moment: OffsetDateTime) -> Computed {
    moment.format(&Rfc3339).map(Kind::text).map_err(|e| e.to_string())
}

fn formatdate(arguments: &Arguments<'_>) -> Computed {
    let (pattern, moment) = (arguments.text(0)?, moment(&arguments.text(1)?)?);
    let mut out = String::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\'' {
            let mut closed = false;
            for inner in chars.by_ref() {
                if inner == '\'' {
                    closed = true;
                    break;
                }
                out.push(inner);
            }
            if !closed {
                return Err("a quoted part does not end".to_owned());
            }
            continue;
        }
        if !c.is_ascii_alphabetic() {
            out.push(c);
            continue;
        }
        let mut count = 1;
        while chars.next_if_eq(&c).is_some() {
            count += 1;
        }
        out.push_str(&part(c, count, moment)?);
    }
    Ok(Kind::text(out))
}

fn part(letter: char, count: usize, moment: OffsetDateTime) -> Result<String, String> {
    let hour12 = |hour: u8| if hour.is_multiple_of(12) { 12 } else { hour % 12 };
    Ok(match (letter, count) {
        ('Y', 4) => format!("{:04}", moment.year()),
        ('Y', 2) => format!("{:02}", moment.year().rem_euclid(100)),
        ('M', 4) => moment.month().to_string(),
        ('M', 3) => moment.month().to_string().chars().take(3).collect(),
        ('M', 2) => format!("{:02}", u8::from(moment.month())),
        ('M', 1) => u8::from(moment.month()).to_string(),
        ('D', 2) => format!("{:02}", moment.day()),
        ('D', 1) => moment.day().to_string(),
        ('E', 4) => moment.weekday().to_string(),
        ('E', 3) => moment.weekday().to_string().chars().take(3).collect(),
        ('h', 2) => format!("{:02}", moment.hour()),
        ('h', 1) => moment.hour().to_string(),
        ('H', 2) => format!("{:02}", hour12(moment.hour())),
        ('H', 1) => hour12(moment.hour()).to_string(),
        ('A', 2) => if moment.hour() < 12 { "AM" } else { "PM" }.to_owned(),
        ('a', 2) => if moment.hour() < 12 { "am" } else { "pm" }.to_owned(),
        ('m', 2) => format!("{:02}", moment.minute()),
        ('m', 1) => moment.minute().to_string(),
        ('s', 2) => format!("{:02}", moment.second()),
        ('s', 1) => moment.second().to_string(),
        ('Z', 1) if moment.offset() == UtcOffset::UTC => "Z".to_owned(),
        ('Z', 3) if moment.offset() == UtcOffset::UTC => "UTC".to_owned(),
        ('Z', 1 | 5) => offset(moment.offset(), ":"),
        ('Z', 3 | 4) => offset(moment.offset(), ""),
        _ => {
            return Err(format!(
                "there is no verb {:?}; literal letters stand in single quotes",
                letter.to_string().repeat(count.min(8))
            ));
        }
    })
}

fn offset(offset: UtcOffset, between: &str) -> String {
    let (hours, minutes, _) = offset.as_hms();
    let sign = if offset.is_negative() { '-' } else { '+' };
    format!("{sign}{:02}{between}{:02}", hours.unsigned_abs(), minutes.unsigned_abs())
}
