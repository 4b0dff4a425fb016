//! How much a world does at once, and how much it keeps. Limits of the language are in `components::value::limits`.

use components::rows::columns::PageSize;

/// From how many programs on that do not end at once several threads go on with them.
pub const PARALLEL_PROGRAMS_MIN: usize = 2;

/// How large the effects of a chain on its collections grow before its pages are stored: recovery repeats them.
pub const EFFECTS_BYTES_MAX: u64 = 16 << 20;

/// What may be kept in storage for answers that are read slowly, unless told, in bytes.
pub const PINNED_BYTES_MAX: u64 = 256 << 20;

/// From how many committed rows on a page is folded, if it is in memory: then a page is searched and copied fast.
pub const FOLD_ROWS_MIN: usize = 512;

/// After how many pages a scan goes on beside the world: looking at so many takes microseconds.
pub const JOB_PAGES_MIN: usize = 16;

/// About how much a job finds before the program goes on with that, in bytes.
pub const FOUND_BYTES: u64 = 1 << 20;

/// How much content of pages stays in memory, unless told, in bytes.
pub const PAGE_CACHE_BYTES: u64 = 500_000_000;

/// From how many rows on those that come at once are merged: each may lie in a page of its own, which is written anew.
const MERGED_ROWS_MIN: usize = 256;

/// Which part of the cache is merged at once of what a transaction has changed.
const PART_SHARE: u64 = 64;

/// The least and the most of that, in bytes.
const PART_BYTES_MIN: u64 = 512 << 10;
const PART_BYTES_MAX: u64 = 8 << 20;

/// How many rows are applied in one tick: a few hundred take a millisecond.
const CHANGES_MAX: usize = 16_384;

/// How many times as much it changes before that goes into pages.
const CHANGES_PARTS: u64 = 2;

/// How much the stages of a tick do, about, before the rest is left to the next one: so a tick takes a few milliseconds,
/// however many wait (`BENCHMARKS.md`, *waiters*).
pub const STEPS_PER_TICK: usize = 512;

/// What programs leave to jobs.
#[derive(Clone, Copy, Debug)]
pub struct JobLimits {
    /// How many pages a program scans or counts itself before jobs go on with those that are left; not 0.
    pub pages_min: usize,
    /// When a job has found so much, the program goes on with that, in bytes.
    pub found_bytes: u64,
    /// With fewer rows than this, rows that come at once are written one after the other, and not merged into pages.
    pub merged_rows_min: usize,
    /// When a transaction has changed so much of rows, that goes into pages before its commit, in bytes.
    pub changes_bytes: u64,
    /// The same at its end if it has changed more rows than this, which the commit would have to apply in one tick.
    pub changes_max: usize,
    /// How much of those pages is merged at once, in bytes.
    pub part_bytes: usize,
    /// How much of rows is gathered before they are sorted, and written to scratch space, in bytes.
    pub sorted_bytes: usize,
}

impl JobLimits {
    /// For a host with a cache of so many bytes.
    pub fn of_cache(cache_bytes: u64) -> Self {
        let part_bytes = (cache_bytes / PART_SHARE).clamp(PART_BYTES_MIN, PART_BYTES_MAX);
        Self {
            pages_min: JOB_PAGES_MIN,
            found_bytes: FOUND_BYTES,
            merged_rows_min: MERGED_ROWS_MIN,
            changes_bytes: CHANGES_PARTS * part_bytes,
            changes_max: CHANGES_MAX,
            part_bytes: part_bytes as usize,
            sorted_bytes: part_bytes as usize,
        }
    }
}

impl Default for JobLimits {
    fn default() -> Self {
        Self::of_cache(PAGE_CACHE_BYTES)
    }
}

/// Limits of a world. Each has a default that suits a small server.
#[derive(Clone, Copy, Debug, bevy_ecs::prelude::Resource)]
pub struct Limits {
    /// How long a request may take, in nanoseconds.
    pub request_ttl_ns: u64,
    /// How many transactions may be open; a request beyond is answered 503.
    pub transactions_max: usize,
    /// What all open transactions may hold together, in bytes; beyond, the youngest is answered 503.
    pub transactions_bytes_max: u64,
    /// How many steps a program may take in one tick.
    pub fuel_per_tick: u64,
    /// From how many programs on that do not end at once several threads go on with them.
    pub parallel_programs_min: usize,
    /// How often the stages of a tick repeat before the rest is left to the next tick.
    pub rounds_max: u32,
    /// How many programs are polled, locks granted and transactions ended in a tick, about, before the rest is left to the
    /// next one.
    pub steps_per_tick: usize,
    /// How much content of pages stays in memory, in bytes.
    pub page_cache_bytes: u64,
    /// What may be kept in storage for nothing but answers that are read slowly, in bytes; beyond, the one that keeps most
    /// is broken off.
    pub pinned_bytes_max: u64,
    /// How large the effects of a chain on its collections grow in storage before its pages are stored, in bytes.
    pub effects_bytes_max: u64,
    /// How large they grow if pages cannot be stored because older transactions may look at what was before, in bytes; then
    /// those begin again.
    pub kept_effects_bytes_max: u64,
    /// How large the pages of a collection become.
    pub page_size: PageSize,
    /// From how many committed rows on a page is folded, if it is in memory.
    pub fold_rows_min: usize,
    /// What programs leave to jobs.
    pub jobs: JobLimits,
    /// How far ahead of the clock a transaction id that a caller chose may be, in nanoseconds.
    pub clock_skew_ns_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_ttl_ns: 30_000_000_000,
            transactions_max: 65_536,
            transactions_bytes_max: 1 << 30,
            fuel_per_tick: 4_000,
            parallel_programs_min: PARALLEL_PROGRAMS_MIN,
            rounds_max: 4_096,
            steps_per_tick: STEPS_PER_TICK,
            page_cache_bytes: PAGE_CACHE_BYTES,
            pinned_bytes_max: PINNED_BYTES_MAX,
            effects_bytes_max: EFFECTS_BYTES_MAX,
            kept_effects_bytes_max: 4 * EFFECTS_BYTES_MAX,
            page_size: PageSize::default(),
            fold_rows_min: FOLD_ROWS_MIN,
            jobs: JobLimits::default(),
            clock_skew_ns_max: 5_000_000_000,
        }
    }
}
