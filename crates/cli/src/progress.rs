//! How far a pull or a warm-up is: a bar for each layer on a terminal, a line for each change anywhere else.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use moat_api::client::rest::Lines;
use moat_api::rest::image::{Image, PullEvent};
use moat_api::rest::template::LayerStatus;
use moat_model::ErrorKind;
use moat_model::units::format_bytes;

use crate::failure::Failure;
use crate::output::Output;

/// Characters of a digest shown: enough to tell layers apart.
const DIGEST_SHOWN: usize = 12;

/// Shows one operation.
#[derive(Debug)]
pub struct Progress {
    output: Output,
    bars: Option<MultiProgress>,
    layers: BTreeMap<String, Layer>,
    phase: String,
}

#[derive(Debug, Default)]
struct Layer {
    bar: Option<ProgressBar>,
    done: bool,
}

impl Progress {
    /// On standard error, so that standard output has the result alone.
    pub fn new(output: &Output) -> Self {
        let bars = (!output.json && std::io::stderr().is_terminal()).then(MultiProgress::new);
        Self { output: *output, bars, layers: BTreeMap::new(), phase: String::new() }
    }

    /// Takes news.
    pub fn show(&mut self, phase: &str, layers: &[LayerStatus]) {
        if self.output.json {
            return;
        }
        if self.phase != phase {
            phase.clone_into(&mut self.phase);
            match &self.bars {
                // On a terminal the bars are the news.
                Some(_) if !layers.is_empty() => {}
                Some(bars) => drop(bars.println(phase)),
                None => self.output.note(phase),
            }
        }
        for status in layers {
            self.layer(status);
        }
    }

    fn layer(&mut self, status: &LayerStatus) {
        let layer = self.layers.entry(status.digest.clone()).or_default();
        if let Some(bars) = &self.bars {
            let bar = layer.bar.get_or_insert_with(|| bars.add(bar_of(&status.digest)));
            bar.set_length(status.bytes_total);
            bar.set_position(status.bytes_done);
            if status.done && !layer.done {
                bar.set_position(status.bytes_total);
                bar.finish_with_message(if status.cached { "was there" } else { "done" });
            }
        } else if status.done && !layer.done {
            let how = if status.cached { "was there" } else { "done" };
            self.output.note(&format!("{}: {}, {how}", shown(&status.digest), format_bytes(status.bytes_total)));
        }
        layer.done |= status.done;
    }

    /// Follows a pull to its end.
    pub async fn follow(mut self, mut events: Lines<PullEvent>) -> Result<Image, Failure> {
        while let Some(event) = events.next().await {
            match event? {
                PullEvent::Progress { phase, layers } => self.show(&phase, &layers),
                PullEvent::Done { image } => return Ok(image),
                PullEvent::Failed { error } => return Err(told(error)),
            }
        }
        Err(Failure::new(ErrorKind::Unavailable, "the node hung up before it was done"))
    }
}

/// A failure told in the middle of an answer.
pub fn told(error: moat_api::rest::ErrorBody) -> Failure {
    let kind = ErrorKind::from_code(&error.code).unwrap_or(ErrorKind::Internal);
    let failure = Failure::new(kind, error.message);
    match error.hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

/// The beginning of a digest, without its algorithm.
pub fn shown(digest: &str) -> String {
    digest.split_once(':').map_or(digest, |(_, hex)| hex).chars().take(DIGEST_SHOWN).collect()
}

fn bar_of(digest: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {bar:30} {bytes:>10}/{total_bytes:10} {msg}");
    let bar = ProgressBar::new(0).with_prefix(shown(digest));
    // The template is a constant: one that does not parse would be seen at once.
    style.map(|style| bar.clone().with_style(style)).unwrap_or(bar)
}
