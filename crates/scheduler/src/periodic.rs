//! When a job that is started by the clock is started next, and what is started then.

use std::str::FromStr;

use croner::Cron;
use jiff::Zoned;
use jiff::tz::TimeZone;
use moat_model::job::{Job, Periodic};
use moat_model::{JobId, Timestamp};

/// Why a job cannot be started by the clock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeriodicError {
    /// No such expression.
    #[error("periodic.cron {given:?} is not a cron expression: {reason}")]
    Cron {
        /// As it stands in the job.
        given: String,
        /// Why not.
        reason: String,
    },
    /// No such time zone.
    #[error("periodic.time_zone {0:?} is no name of the IANA time zone database, such as UTC or Europe/Berlin")]
    TimeZone(String),
    /// The moment lies outside the calendar.
    #[error("the moment {0} lies outside the calendar")]
    Moment(i64),
    /// The child would have no valid name.
    #[error("a child of job {parent} cannot be named: {reason}")]
    Name {
        /// Whose child.
        parent: JobId,
        /// Why not.
        reason: String,
    },
}

/// The first moment after `after` at which any of the expressions starts the job; none if it is switched off or never
/// again.
pub fn next(periodic: &Periodic, after: Timestamp) -> Result<Option<Timestamp>, PeriodicError> {
    let zone = time_zone(&periodic.time_zone)?;
    let crons: Vec<Cron> = periodic.crons.iter().map(|text| cron(text)).collect::<Result<_, _>>()?;
    if !periodic.enabled {
        return Ok(None);
    }
    let moment = jiff::Timestamp::from_millisecond(after.as_millis());
    let moment: Zoned = moment.map_err(|_| PeriodicError::Moment(after.as_millis()))?.to_zoned(zone);
    // An expression such as the 30th of February is well-formed and never comes: that is no error.
    let nexts = crons.iter().filter_map(|cron| cron.find_next_occurrence(&moment, false).ok());
    Ok(nexts.map(|next| Timestamp::from_millis(next.timestamp().as_millisecond())).min())
}

/// Whether everything in it can be understood.
pub fn validate(periodic: &Periodic) -> Result<(), PeriodicError> {
    time_zone(&periodic.time_zone)?;
    periodic.crons.iter().try_for_each(|text| cron(text).map(drop))
}

/// What is started at a moment: named after it, so that the same start twice is the same job.
pub fn child(parent: &Job, at: Timestamp) -> Result<Job, PeriodicError> {
    let id = JobId::parse(&format!("{}/periodic-{}", parent.id, at.as_secs()))
        .map_err(|error| PeriodicError::Name { parent: parent.id.clone(), reason: error.to_string() })?;
    let name = id.to_string();
    Ok(Job { id, name, periodic: None, parent: Some(parent.id.clone()), ..parent.clone() })
}

fn time_zone(name: &str) -> Result<TimeZone, PeriodicError> {
    TimeZone::get(name).map_err(|_| PeriodicError::TimeZone(name.to_owned()))
}

fn cron(text: &str) -> Result<Cron, PeriodicError> {
    Cron::from_str(text).map_err(|error| PeriodicError::Cron { given: text.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn periodic(crons: &[&str], zone: &str) -> Periodic {
        let crons = crons.iter().map(|text| (*text).to_owned()).collect();
        Periodic { crons, prohibit_overlap: false, time_zone: zone.to_owned(), enabled: true }
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::from_millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn the_next_moment_is_after_and_in_its_zone() {
        let table = [
            (&["*/15 * * * *"][..], "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:15:00Z"),
            (&["0 3 * * *", "30 2 * * *"], "UTC", "2026-01-01T02:00:00Z", "2026-01-01T02:30:00Z"),
            (&["0 9 * * *"], "Europe/Berlin", "2026-01-01T00:00:00Z", "2026-01-01T08:00:00Z"),
            (&["0 9 * * *"], "Europe/Berlin", "2026-07-01T00:00:00Z", "2026-07-01T07:00:00Z"),
            (&["@hourly"], "UTC", "2026-01-01T00:59:59Z", "2026-01-01T01:00:00Z"),
            (&["0 0 29 2 *"], "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        ];
        for (crons, zone, after, expected) in table {
            assert_eq!(next(&periodic(crons, zone), at(after)), Ok(Some(at(expected))), "{crons:?} {zone}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        assert!(matches!(
            next(&periodic(&["every day"], "UTC"), at("2026-01-01T00:00:00Z")),
            Err(PeriodicError::Cron { .. })
        ));
        assert_eq!(
            validate(&periodic(&["@daily"], "Mars/Olympus")),
            Err(PeriodicError::TimeZone("Mars/Olympus".to_owned()))
        );
        let off = Periodic { enabled: false, ..periodic(&["@daily"], "UTC") };
        assert_eq!(next(&off, at("2026-01-01T00:00:00Z")), Ok(None));
    }
}
