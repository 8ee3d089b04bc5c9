//! Decodes entries: by the rules of old servers up to feature compatibility version 4.0, and like the driver's source above it.

use bson::raw::RawDocument;

use super::identities::{SharedIdentities, lock};
use super::server::Server;
use crate::error::Result;
use crate::model::Position;
use crate::oplog::legacy::LegacyDecoder;
use crate::oplog::{Assembler, Entry, Item, Taken};

/// Maximum number of bytes of open transactions kept in memory.
const TRANSACTION_BYTES: usize = 16 << 20;

/// First series that logs a transaction in several entries.
const PARTS: [u32; 2] = [4, 2];

/// Turns raw entries into steps of the history.
pub(super) enum Decoder {
    Old {
        decoder: LegacyDecoder,
        identities: SharedIdentities,
    },
    New(Box<Assembler>),
}

impl Decoder {
    /// Begins after a position.
    pub fn new(server: &Server, after: Position) -> Self {
        // Listings that follow belong to this tail, whatever decodes its entries.
        let identities = server.identities.begin(after);
        match server.series >= PARTS {
            true => Self::New(Box::new(Assembler::new(after, TRANSACTION_BYTES))),
            false => Self::Old {
                decoder: LegacyDecoder::new(server.series),
                identities,
            },
        }
    }

    /// Takes the next entry, which has this position. See [`Assembler::take`].
    pub fn take(&mut self, raw: &RawDocument, position: Position) -> Result<Taken> {
        match self {
            Self::Old { decoder, identities } => {
                let mut known = lock(identities);
                let mut entry = decoder.take(raw, &mut known.identities)?;
                known.position = Some(position);
                stamp(&mut entry, position);
                Ok(Taken::Entry(entry))
            }
            Self::New(assembler) => assembler.take(raw),
        }
    }

    /// The next part of a large transaction. See [`Assembler::next_part`].
    pub async fn next_part(&mut self) -> Result<Option<Entry>> {
        match self {
            Self::Old { .. } => Ok(None),
            Self::New(assembler) => assembler.next_part().await,
        }
    }

    /// Moves parts of transactions out of memory. See [`Assembler::make_room`].
    pub async fn make_room(&mut self) -> Result<()> {
        match self {
            Self::Old { .. } => Ok(()),
            Self::New(assembler) => assembler.make_room().await,
        }
    }

    /// Takes a part that was asked for. See [`Assembler::supply`].
    pub fn supply(&mut self, raw: &RawDocument) -> Result<()> {
        match self {
            Self::Old { .. } => Ok(()),
            Self::New(assembler) => assembler.supply(raw),
        }
    }
}

/// Gives an entry without a term, and all in it, the whole position.
fn stamp(entry: &mut Entry, position: Position) {
    if entry.position == position {
        return;
    }
    if entry.resume == entry.position {
        entry.resume = position;
    }
    entry.position = position;
    for item in &mut entry.items {
        match item {
            Item::Change(change) => change.position = position,
            Item::Command(command) => command.position = position,
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::{Timestamp, rawdoc};

    use super::*;
    use crate::mongo::legacy::source::server::position_of;
    use crate::oplog::legacy::LegacyIdentities;

    #[test]
    fn an_entry_without_a_term_is_known_by_its_hash() {
        let ts = Timestamp { time: 9, increment: 1 };
        let raw = rawdoc! { "ts": ts, "h": 42_i64, "v": 2, "op": "c", "ns": "a.$cmd", "o": { "drop": "b" } };
        let mut identities = LegacyIdentities::new("rs", [3, 0]);
        let mut entry = LegacyDecoder::new([3, 0]).take(&raw, &mut identities).unwrap();
        stamp(&mut entry, position_of(&raw).unwrap());
        let expected = Position::new(ts, 42);
        assert_eq!((entry.position, entry.resume), (expected, expected));
        assert!(matches!(&entry.items[..], [Item::Command(command)] if command.position == expected));
    }
}
