//! Room: a commit that the disk has no room for is refused before it has its place in the order. Those that only delete
//! may use what is kept in reserve.

use bevy_ecs::prelude::World;
use components::language::chain::{Mutation, Recorded};
use components::language::encode::Stored;
use components::language::tbon;
use components::rows::staged::MergedPart;
use components::rows::stored;
use components::transaction::ledger::{Change, ChangedContent};
use components::{Error, State, TxnId};

/// What a commit takes in storage beside its content, in bytes: keys, headers, hashes.
const CHANGE_OVERHEAD_BYTES: u64 = 1_024;

/// How much room pages need before they are stored, in bytes: a tick stores several.
const PAGES_BYTES_MIN: u64 = 4 << 20;

/// With less room, effects are not left to grow, in bytes: only pages that are stored anew lack what was deleted.
const LOW_BYTES: u64 = 64 << 20;

/// How large the effects of a chain grow then, in bytes.
const EFFECTS_BYTES_MAX_IF_LOW: u64 = 512 << 10;

/// For how many bytes the storage has room, as far as that is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq, bevy_ecs::prelude::Resource)]
pub struct Room {
    /// For any commit.
    pub bytes: u64,
    /// For commits that only delete, and for pages that are stored anew.
    pub delete_bytes: u64,
}

impl Room {
    /// As much as anybody wants.
    pub const PLENTY: Self = Self { bytes: u64::MAX, delete_bytes: u64::MAX };

    fn take(&mut self, bytes: u64, is_delete: bool) -> Result<(), Error> {
        if bytes > if is_delete { self.delete_bytes } else { self.bytes } {
            return Err(Error::unavailable(format_args!(
                "the disk is full: this write of {bytes} bytes has no room and was not done; reads go on, and deletes \
                 of rows make room, as does whatever else frees some on the disk"
            )));
        }
        if *self != Room::PLENTY {
            self.bytes = self.bytes.saturating_sub(bytes);
            self.delete_bytes = self.delete_bytes.saturating_sub(bytes);
        }
        Ok(())
    }

    /// How large the effects of a chain may grow before its pages are stored, if `limit` is enough with plenty of room.
    pub fn effects_bytes_max(self, limit: u64) -> u64 {
        if self.bytes < LOW_BYTES { limit.min(EFFECTS_BYTES_MAX_IF_LOW) } else { limit }
    }

    /// Whether pages may be stored that could wait.
    pub fn is_for_pages(self) -> bool {
        self.delete_bytes >= PAGES_BYTES_MIN
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::PLENTY
    }
}

/// Take the room for what a transaction has changed.
///
/// # Errors
/// 503 if there is not enough.
pub(crate) fn take_room(world: &mut World, changes: &[Change]) -> Result<(), Error> {
    let room = &mut *world.resource_mut::<Room>();
    if *room == Room::PLENTY || changes.is_empty() {
        return Ok(());
    }
    let bytes: u64 = changes.iter().map(stored_bytes).sum();
    room.take(bytes, changes.iter().all(is_delete))
}

/// Take the room for pages that are stored before their commit.
///
/// # Errors
/// 503 if there is not enough.
pub(crate) fn take_room_for_pages(world: &mut World, part: &MergedPart) -> Result<(), Error> {
    let pages = part.replaced.iter().flat_map(|(_, pages)| pages);
    let bytes = pages.map(|page| page.content.len() as u64 + CHANGE_OVERHEAD_BYTES).sum();
    world.resource_mut::<Room>().take(bytes, part.is_delete)
}

fn is_delete(change: &Change) -> bool {
    match &change.content {
        ChangedContent::Value(_, mutations) => {
            !mutations.is_empty()
                && mutations.iter().all(|mutation| matches!(mutation, Mutation::Delete { .. }))
        }
        ChangedContent::Rows(slots, _) => slots.iter().all(|(_, rows)| {
            rows.merged.is_none()
                && rows.staged.as_ref().is_none_or(|staged| staged.is_delete)
                && rows.rows.iter().all(|change| change.new.is_none())
        }),
    }
}

/// About how much a change takes in storage, and rather more than less.
fn stored_bytes(change: &Change) -> u64 {
    let content = match &change.content {
        ChangedContent::Value(subject, mutations) => {
            let mutations = Recorded::of(mutations).bytes();
            mutations + subject_bytes(subject, mutations)
        }
        ChangedContent::Rows(slots, recorded) => {
            let mut effects = Vec::new();
            let rows = slots.iter().map(|(slot, rows)| (*slot, rows.rows.iter()));
            stored::append_effects(&mut effects, TxnId::ZERO, 0, rows);
            let merged = slots.iter().filter_map(|(_, rows)| rows.merged.as_ref());
            recorded.bytes() + effects.len() as u64 + merged.map(|merged| merged.bytes()).sum::<u64>()
        }
    };
    CHANGE_OVERHEAD_BYTES + content
}

/// The subject is written as a whole when its changes since have become as large.
fn subject_bytes(subject: &State, mutations: u64) -> u64 {
    mutations.max(tbon::encode(&Stored(subject)).len() as u64)
}
