//! The setting for users and roles.

use super::MigrationBuilder;
use crate::users::Users;

impl MigrationBuilder {
    /// Whether users and user-defined roles are carried to the target. Default: [`Users::None`].
    ///
    /// Users get there with their passwords, roles, restrictions and custom data. They are made when the run starts, follow every change on
    /// the source, and are compared at the cutover, which does not complete unless they are the same. The users that the migration itself
    /// connects as are never changed. [Security](crate::docs::security#carry-users-and-roles) has the details, and the roles that both
    /// users need.
    ///
    /// They are no part of the checkpoint: a migration may be resumed with others. A [reverse](crate::Summary::reverse) migration carries
    /// what the original one carried, unless it is told otherwise.
    ///
    /// ```no_run
    /// # use mongoferry::{ExistingUsers, UserSelection, Users};
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// let selection = UserSelection::all().exclude("intern", "shop").existing(ExistingUsers::Keep);
    /// builder.users(Users::Carry(selection))
    /// # }
    /// ```
    #[must_use]
    pub fn users(mut self, users: Users) -> Self {
        self.settings.users = users;
        self
    }
}
