//! The memory of the process comes from mimalloc.
//!
//! The crate `mimalloc` asks it for every block by alignment. mimalloc then takes a block of exactly the right size only
//! if that is a power of two, else a larger one, the slow way. But nearly all its blocks are aligned enough as they are
//! (`BENCHMARKS.md`, *upsert*).

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys as mimalloc;

/// Blocks of at least so many bytes are aligned so (`MI_MAX_ALIGN_SIZE`), shorter ones to [`SHORT_BLOCK_ALIGNMENT`].
const BLOCK_ALIGNMENT: usize = 16;

/// How any block is aligned.
const SHORT_BLOCK_ALIGNMENT: usize = 8;

/// With a cache smaller than this, what is freed goes back to the system at once, although that costs time.
const SMALL_CACHE_BYTES: u64 = 512_000_000;

/// With a larger one, only what nobody has needed for so long: getting memory anew costs more than keeping some.
const PURGE_DELAY_MS: std::ffi::c_long = 10_000;

/// The place of `purge_delay` among mimalloc's options (`mi_option_e` in its header; version 3).
const PURGE_DELAY: mimalloc::mi_option_t = 15;

/// mimalloc, as Rust's allocator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocator;

/// Whether every block of so many bytes is aligned so.
fn is_aligned_anyway(size: usize, alignment: usize) -> bool {
    alignment <= SHORT_BLOCK_ALIGNMENT || (alignment <= BLOCK_ALIGNMENT && size >= BLOCK_ALIGNMENT)
}

// SAFETY: mimalloc gives blocks that nobody else has, of at least the size, or null; it keeps their content when it
// moves them; and they are aligned as the layout says: by `is_aligned_anyway`, or because it was asked for. It takes any
// of its blocks back, however they were asked for. None of these functions unwinds.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, alignment) = (layout.size(), layout.align());
        // SAFETY: any size and any alignment of a layout may be asked for.
        unsafe {
            match is_aligned_anyway(size, alignment) {
                true => mimalloc::mi_malloc(size).cast(),
                false => mimalloc::mi_malloc_aligned(size, alignment).cast(),
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, alignment) = (layout.size(), layout.align());
        // SAFETY: any size and any alignment of a layout may be asked for.
        unsafe {
            match is_aligned_anyway(size, alignment) {
                true => mimalloc::mi_zalloc(size).cast(),
                false => mimalloc::mi_zalloc_aligned(size, alignment).cast(),
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the block is one of mimalloc's.
        unsafe { mimalloc::mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the block is one of mimalloc's, and any size and any alignment of a layout may be asked for.
        unsafe {
            match is_aligned_anyway(size, layout.align()) {
                true => mimalloc::mi_realloc(block.cast(), size).cast(),
                false => mimalloc::mi_realloc_aligned(block.cast(), size, layout.align()).cast(),
            }
        }
    }
}

/// Fit the memory that the process takes beside its cache to how large that is. To be called before there are other
/// threads.
pub fn fit(cache_bytes: u64) {
    let is_small = cache_bytes < SMALL_CACHE_BYTES;
    // SAFETY: these calls only set options of this process; their arguments are the ones that the manuals give (mimalloc,
    // options; prctl(2), PR_SET_THP_DISABLE).
    unsafe {
        mimalloc::mi_option_set(PURGE_DELAY, if is_small { 0 } else { PURGE_DELAY_MS });
        #[cfg(target_os = "linux")]
        if is_small {
            libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Fill a block, so that two that overlap are found out.
    fn fill(block: *mut u8, size: usize, byte: u8) {
        // SAFETY: whoever calls has a block of this size.
        unsafe { block.write_bytes(byte, size) };
    }

    fn holds(block: *const u8, size: usize, byte: u8) -> bool {
        // SAFETY: whoever calls has filled a block of this size.
        unsafe { std::slice::from_raw_parts(block, size) }.iter().all(|other| *other == byte)
    }

    proptest! {
        #[test]
        fn blocks_are_aligned_and_nobody_elses(
            layouts in prop::collection::vec((1usize..3_000, 0u32..9, any::<bool>(), 1usize..3_000), 1..100),
        ) {
            let mut blocks = Vec::new();
            for (i, (size, alignment, is_zeroed, new_size)) in layouts.into_iter().enumerate() {
                let byte = i as u8 + 1;
                let layout = Layout::from_size_align(size, 1 << alignment).unwrap();
                // SAFETY: the layout is not empty.
                let block = unsafe {
                    match is_zeroed {
                        true => Allocator.alloc_zeroed(layout),
                        false => Allocator.alloc(layout),
                    }
                };
                prop_assert!(block.addr().is_multiple_of(layout.align()));
                prop_assert!(!is_zeroed || holds(block, size, 0));
                fill(block, size, byte);
                blocks.push((block, layout, byte, new_size));
            }
            for (block, layout, byte, new_size) in &mut blocks {
                prop_assert!(holds(*block, layout.size(), *byte));
                // SAFETY: the block has this layout, and the new size is not 0.
                let moved = unsafe { Allocator.realloc(*block, *layout, *new_size) };
                prop_assert!(moved.addr().is_multiple_of(layout.align()));
                prop_assert!(holds(moved, layout.size().min(*new_size), *byte));
                (*block, *layout) = (moved, Layout::from_size_align(*new_size, layout.align()).unwrap());
                fill(*block, *new_size, *byte);
            }
            for (block, layout, byte, _) in blocks {
                prop_assert!(holds(block, layout.size(), byte));
                // SAFETY: the block has this layout, and is not used any more.
                unsafe { Allocator.dealloc(block, layout) };
            }
        }
    }
}
