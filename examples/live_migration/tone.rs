//! Which events are shown as text, and in which tone.

use mongoferry::Event;

use super::text::Tone;

/// Whether an event is shown as text: what is good to know, and not already in the progress or in the summary.
pub fn needs_attention(event: &Event) -> bool {
    !matches!(
        event,
        Event::PhaseChanged { .. }
            | Event::Started { resumed: false, .. }
            | Event::CollectionCopied { .. }
            | Event::IndexBuilt { .. }
            | Event::CheckpointSaved { .. }
            | Event::Verified { .. }
            // The summary has the error.
            | Event::Failed { .. }
            // The cutover fails with the same text.
            | Event::WritesAfterStop { accepted: false, .. }
    )
}

/// How bad an event is.
pub fn of_event(event: &Event) -> Tone {
    match event {
        Event::Failed { .. }
        | Event::IndexFailed { .. }
        | Event::DocumentRefused { .. }
        | Event::DocumentDiffers { .. }
        | Event::SourceWriteBlockStays { .. }
        | Event::Verified { identical: false, .. } => Tone::Bad,
        Event::PhaseChanged { .. }
        | Event::Started { .. }
        | Event::CollectionCopied { .. }
        | Event::IndexBuilt { .. }
        | Event::CatalogChanged { .. }
        | Event::CheckpointSaved { .. }
        | Event::SourceWritesBlocked
        | Event::SourceWritesUnblocked
        | Event::Verified { .. } => Tone::Plain,
        // All others tell of trouble that may pass.
        _ => Tone::Warning,
    }
}

/// The lines of a plan or of a summary of the library, in their tones.
pub fn of_lines(text: &str) -> Vec<(Tone, String)> {
    let mut last = Tone::Plain;
    text.lines()
        .map(|line| {
            let tone = match line {
                line if line.starts_with("blocker ") || line.ends_with("  DIFFERENT") => Tone::Bad,
                line if line.starts_with("not handed over") => Tone::Bad,
                line if line.starts_with("warning ") || line.starts_with("written to by another") => Tone::Warning,
                line if line.starts_with("complete: ") || line.ends_with("  identical") => Tone::Good,
                // Differences, and the fix of a finding.
                line if line.starts_with("    ") => last,
                _ => Tone::Plain,
            };
            last = tone;
            (tone, line.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_finding_has_its_tone() {
        let text =
            "a -> b\n\nblocker  existing_data  shop.orders\n          -> drop it\nwarning  small_cache\nin all 3";
        let tones: Vec<Tone> = of_lines(text).into_iter().map(|(tone, _)| tone).collect();
        assert_eq!(
            tones,
            [
                Tone::Plain,
                Tone::Plain,
                Tone::Bad,
                Tone::Bad,
                Tone::Warning,
                Tone::Plain
            ]
        );
    }
}
