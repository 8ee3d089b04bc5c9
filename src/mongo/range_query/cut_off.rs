//! Cuts off ranges whose bounds do not fit into one command.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::error::Result;
use crate::model::Batch;
use crate::order::Key;

/// Ends a stream of documents in `_id` order before the first document above `upper`.
pub(super) fn cut_off(batches: BoxStream<'static, Result<Batch>>, upper: Key) -> BoxStream<'static, Result<Batch>> {
    let upper = Arc::new(upper);
    stream::unfold(Some(batches), move |batches| {
        let upper = Arc::clone(&upper);
        async move {
            let mut batches = batches?;
            let batch = match batches.next().await? {
                Ok(batch) => batch,
                Err(error) => return Some((Err(error), None)),
            };
            let is_inside = |key: Key| key <= *upper;
            let count = batch
                .iter()
                .take_while(|document| Key::of_document(document).is_none_or(is_inside))
                .count();
            if count == batch.len() {
                return Some((Ok(batch), Some(batches)));
            }
            let mut inside = Batch::new();
            batch.iter().take(count).for_each(|document| inside.push(document));
            (count > 0).then_some((Ok(inside), None))
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use bson::{RawBsonRef, rawdoc};
    use futures::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn what_is_above_is_cut_off() {
        let batch = |ids: [i32; 2]| {
            let mut batch = Batch::new();
            ids.iter().for_each(|id| batch.push(&rawdoc! { "_id": *id }));
            Ok(batch)
        };
        for (upper, expected) in [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (9, 6)] {
            let batches = stream::iter([batch([1, 2]), batch([3, 4]), batch([5, 6])]).boxed();
            let cut = cut_off(batches, Key::from(RawBsonRef::Int32(upper)));
            let left: Vec<Batch> = cut.try_collect().await.unwrap();
            assert_eq!(left.iter().map(Batch::len).sum::<usize>(), expected, "{upper}");
            assert!(left.iter().all(|batch| !batch.is_empty()), "{upper}");
        }
    }
}
