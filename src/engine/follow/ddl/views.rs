//! Views, which the server stores as documents of `system.views`.

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::rawdoc;

use super::{malformed, unexpected};
use crate::engine::follow::router::Router;
use crate::engine::ownership::Room;
use crate::engine::track::collection::CollectionProgress;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{CollectionKind, Namespace, Position};
use crate::oplog::delta;

impl Router {
    /// Drops all views of a database. The server does so by dropping `system.views`, the collection that defines them.
    pub(super) async fn drop_views(&mut self, position: Position, database: &str) -> Result<()> {
        let views: Vec<Namespace> = self
            .state
            .views
            .keys()
            .filter(|view| view.database() == database)
            .cloned()
            .collect();
        for view in views {
            self.drop_view(position, &view).await?;
        }
        Ok(())
    }

    pub(super) async fn set_view(
        &mut self,
        position: Position,
        namespace: &Namespace,
        options: RawDocumentBuf,
    ) -> Result<()> {
        if !self.state.selection.contains(namespace) {
            return Ok(());
        }
        if self
            .state
            .views
            .get(namespace)
            .is_some_and(|view| view.options == options)
        {
            return Ok(());
        }
        // Once the view exists, changes of a collection that had the name before must not be replayed.
        self.save_now(None).await?;
        let target = self.state.selection.target(namespace);
        let made = if let Some(view) = self.state.views.get(namespace) {
            self.ownership
                .replace(&target, view.made, CollectionKind::View, options.clone())
                .await?
        } else {
            // Existing data that is to be kept is not examined any further: a view has no data to lose.
            match self
                .ownership
                .claim(&target, position <= self.state.replay_until)
                .await?
            {
                Room::Free => {
                    self.ownership
                        .create(&target, CollectionKind::View, options.clone())
                        .await?
                }
                Room::Kept => {
                    self.ownership
                        .replace(&target, None, CollectionKind::View, options.clone())
                        .await?
                }
            }
        };
        let view = CollectionProgress {
            made,
            ..CollectionProgress::view(namespace.clone(), target, options)
        };
        self.state.views.insert(namespace.clone(), view);
        self.report(position, format!("defined the view {namespace}"));
        Ok(())
    }

    pub(super) async fn change_view(
        &mut self,
        position: Position,
        namespace: &Namespace,
        change: &RawDocument,
    ) -> Result<()> {
        if !self.state.selection.contains(namespace) {
            return Ok(());
        }
        let view = self
            .state
            .views
            .get(namespace)
            .ok_or_else(|| unexpected("a view was changed whose creation was never seen"))?;
        // The entry updates the view's document in `system.views`. That document consists of the view's options and an `_id`.
        let mut document = rawdoc! { "_id": namespace.as_str() };
        for element in &view.options {
            let (field, value) = element.map_err(malformed)?;
            document.append(field, value);
        }
        let changed = delta::apply(&document, change).map_err(|error| {
            Error::new(
                ErrorKind::UnsupportedEntry,
                "change a view",
                "its definition cannot be updated",
            )
            .with_context("namespace", namespace)
            .with_source(error)
        })?;
        let mut options = RawDocumentBuf::new();
        for element in &changed {
            let (field, value) = element.map_err(malformed)?;
            if field != "_id" {
                options.append(field, value);
            }
        }
        self.set_view(position, namespace, options).await
    }

    pub(super) async fn drop_view(&mut self, position: Position, namespace: &Namespace) -> Result<()> {
        if let Some(view) = self.state.views.remove(namespace) {
            self.drain().await?;
            let is_left = self
                .ownership
                .remove(&view.target.target, view.made, self.state.routed)
                .await?;
            self.report_drop(position, format!("dropped the view {namespace}"), is_left);
        }
        Ok(())
    }
}
