//! Wrapper type of layers.

use std::ops::Deref;

/// Makes a source, sink or checkpoint store of a layer, which wraps another one and changes some of its methods.
///
/// A layer implements [`SourceLayer`](crate::SourceLayer), [`SinkLayer`](crate::SinkLayer) or
/// [`CheckpointStoreLayer`](crate::CheckpointStoreLayer), and `Layered` implements [`Source`](crate::Source), [`Sink`](crate::Sink) or
/// [`CheckpointStore`](crate::CheckpointStore) for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layered<L>(pub L);

impl<L> Deref for Layered<L> {
    type Target = L;

    fn deref(&self) -> &L {
        &self.0
    }
}
