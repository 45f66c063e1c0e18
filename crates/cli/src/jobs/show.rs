//! How jobs and what belongs to them look.

use moat_api::rest::evaluation::PlacementFailure;
use moat_model::Timestamp;
use moat_model::job::ClientStatus;
use owo_colors::Style;

use crate::output::{Output, age};

/// The beginning of an id, as people see it; all of it if they ask.
pub fn short(id: &str, verbose: bool) -> &str {
    if verbose { id } else { id.get(..8).unwrap_or(id) }
}

/// `name  = value`, one below the other.
pub fn fields(output: &Output, rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| {
        format!("{} = {value}", output.styled(&format!("{name:<width$}"), Style::new().dimmed()))
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A heading, with its content below it.
pub fn section(output: &Output, title: &str, content: &str) -> String {
    format!("\n{}\n{content}", output.styled(title, Style::new().bold()))
}

/// A status in its colour.
pub fn status(output: &Output, word: &str) -> String {
    let style = match word {
        "running" | "ready" | "successful" | "eligible" | "success" => Style::new().green(),
        "failed" | "lost" | "down" | "failure" => Style::new().red(),
        "pending" | "blocked" | "unknown" | "ineligible" | "paused" | "draining" | "stopping" => Style::new().yellow(),
        _ => Style::new(),
    };
    output.styled(word, style)
}

/// A client status in its colour.
pub fn client(output: &Output, client: ClientStatus) -> String {
    status(output, client.as_str())
}

/// When something of the API was; `-` if never.
pub fn ago(text: Option<&str>, now: Timestamp) -> String {
    let Some(text) = text else { return "-".to_owned() };
    moment(text).map_or_else(|| text.to_owned(), |at| format!("{} ago", age(at, now)))
}

/// When something was, by the model's clock.
pub fn ago_at(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or_else(|| "-".to_owned(), |at| format!("{} ago", age(at, now)))
}

/// A moment of the API.
pub fn moment(text: &str) -> Option<Timestamp> {
    let at = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok().map(Timestamp::from_millis)
}

/// A moment as the API writes it, to the second.
pub fn written(at: Timestamp) -> String {
    let read = time::OffsetDateTime::from_unix_timestamp(at.as_secs());
    let text = read.ok().and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok());
    text.unwrap_or_else(|| at.as_millis().to_string())
}

/// Why instances of a group could not be placed; what is missing on nodes stands out.
pub fn unplaced(output: &Output, group: &str, failure: &PlacementFailure) -> String {
    let what = if failure.unplaced == 1 { "instance" } else { "instances" };
    let mut lines = vec![format!("group {group:?}: {} {what} could not be placed", failure.unplaced)];
    for reason in &failure.reasons {
        let red = reason.contains("missing drivers");
        lines.push(format!("  * {}", if red { output.styled(reason, Style::new().red()) } else { reason.clone() }));
    }
    lines.join("\n")
}

/// Yes or no.
pub fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_and_written() {
        let at = moment("2026-11-22T13:00:05.250Z").unwrap();
        assert_eq!(written(at), "2026-11-22T13:00:05Z");
        assert_eq!(ago(Some("2026-11-22T13:00:05Z"), at.plus(std::time::Duration::from_secs(30))), "30s ago");
        assert_eq!(ago(Some("never"), at), "never");
        assert_eq!(ago(None, at), "-");
        assert_eq!(short("11111111-2222", false), "11111111");
        assert_eq!(short("abc", false), "abc");
    }
}
