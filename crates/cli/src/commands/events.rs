//! `moat events`.

use clap::Args;
use moat_api::nex::CloudEvent;
use owo_colors::Style;
use serde_json::Value;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::session;

/// Which events.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only of this type, such as workload_undeployed; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// End after so many events
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
}

/// Shows them as they come.
pub async fn run(global: &Global, output: &Output, args: &EventsArgs) -> Result<(), Failure> {
    let client = session::client(global).await?;
    let mut events = client.events().await?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(event) = events.next().await else { break };
        if !args.types.is_empty() && !args.types.contains(&event.event_type) {
            continue;
        }
        left -= 1;
        if output.json {
            output.record(&event)?;
        } else {
            output.line(&line(output, &event))?;
        }
    }
    Ok(())
}

fn line(output: &Output, event: &CloudEvent) -> String {
    let dim = |text: &str| output.styled(text, Style::new().dimmed());
    let time = event.time.as_deref().unwrap_or("-");
    let kind = output.styled(&event.event_type, Style::new().bold());
    format!("{} {kind} {} {}", dim(time), summary(&event.data), dim(&event.source))
}

/// The members of an event's data in one line; what is nested stays JSON.
fn summary(data: &Value) -> String {
    let Value::Object(members) = data else { return data.to_string() };
    let shown =
        members.iter().filter(|(name, value)| !value.is_null() && *name != "tags").map(|(name, value)| match value {
            Value::String(text) if text.contains(char::is_whitespace) || text.is_empty() => format!("{name}={text:?}"),
            Value::String(text) => format!("{name}={text}"),
            other => format!("{name}={other}"),
        });
    shown.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_told_in_one_line() {
        let data =
            serde_json::json!({"workload_name": "web", "code": 3, "message": "killed: memory", "tags": {"a": "b"}});
        assert_eq!(summary(&data), "code=3 message=\"killed: memory\" workload_name=web");
        assert_eq!(summary(&Value::Null), "null");
    }
}
