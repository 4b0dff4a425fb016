//! The one source of chance of a simulation.

/// The seeds of a test: `count` that are always the same, or as many as the environment variable `variable` says; then
/// a quarter as many from `SIMULATION_FIRST` on, if that is set: `tests/all` sets it to another number each time, and
/// prints it. `SIMULATION_SEED` is one seed to run again.
pub fn seeds(variable: &str, count: u64) -> impl Iterator<Item = u64> {
    let number = |variable: &str| {
        let text = std::env::var(variable).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
    };
    let (fixed, rotating) = match number("SIMULATION_SEED") {
        Some(seed) => (seed..seed + 1, 0..0),
        None => {
            let count = number(variable).unwrap_or(count);
            let first = number("SIMULATION_FIRST").map(|first| first.max(count));
            (0..count, first.map_or(0..0, |first| first..first + count.div_ceil(4)))
        }
    };
    fixed.chain(rotating)
}

/// Splitmix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence that a seed begins.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True once in so many times.
    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}
