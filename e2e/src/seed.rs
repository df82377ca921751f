//! The seed of a random test: another one each time, shown where a test fails, and taken from the environment to play one again.

/// The variable that names a seed.
const VARIABLE: &str = "MEDIAMIRROR_TEST_SEED";

/// The seed of this run, printed with what plays it again.
///
/// # Panics
/// When the variable is no number.
pub fn seed() -> u64 {
    let seed = match std::env::var(VARIABLE) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{VARIABLE}={text}: {e}")),
        Err(_) => rand::random(),
    };
    println!("to play it again: {VARIABLE}={seed}");
    seed
}
