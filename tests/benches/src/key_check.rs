//! Whether the time of a key's check tells how near a wrong key was: Welch's t-test between two classes of wrong keys, as
//! dudect does it (Reparaz, Balasch, Verbauwhede: "Dude, is my code constant time?", 2017).
//!
//! Samples of both classes are taken in random turns, and cropped at percentiles that are found on the first of them, since what
//! is slow is mostly the machine. The largest |t| over all crops counts.

use std::{hint::black_box, time::Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use valetkey_core::{Entropy, KeyId, PresentedKey, Secret, SystemEntropy, Timestamp};

/// Beyond this, two classes differ with near certainty.
const LEAKS: f64 = 4.5;

/// Samples from which the crops are found.
const CALIBRATION: usize = 10_000;

/// Different keys of each class, so that no single one's own luck is measured.
const POOL: usize = 64;

/// Checks in one sample: the clock is coarser than a check.
const CHECKS: usize = 8;

/// The benchmark's settings.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct KeyCheck {
    /// Samples of both classes together, of each test.
    #[arg(long, default_value_t = 1_000_000)]
    samples: usize,
}

/// Bytes that were chosen.
#[derive(Debug)]
struct Fixed([u8; 32]);

impl Entropy for Fixed {
    fn fill(&self, bytes: &mut [u8]) {
        for (to, from) in bytes.iter_mut().zip(self.0.iter().cycle()) {
            *to = *from;
        }
    }
}

/// A stored key, and wrong ones for it.
struct Case {
    /// The texts of both classes.
    texts: [Vec<Secret>; 2],
    /// What is stored, as each class meets it.
    stored: [Vec<Option<[u8; 32]>>; 2],
}

/// Prints the table and the verdict; fails if something leaks, or if the measurement is blind.
#[expect(clippy::print_stdout, reason = "the table is what this command is for")]
pub(crate) fn measure(settings: &KeyCheck) -> anyhow::Result<()> {
    println!("{:<44} {:>10} {:>9} {:>9} {:>8}", "classes", "samples", "mean ns", "mean ns", "|t|");
    let mut worst = 0.0_f64;
    for (name, case) in [
        ("secret: 51 of 52 characters right / none", by_secret()),
        ("hash: 31 of 32 bytes right / none", by_hash()),
        ("id: known / unknown", by_id()),
    ] {
        let found = test(settings.samples, |class, turn| {
            let text = copy(&case.texts[class][turn % POOL]);
            let stored = case.stored[class][turn % POOL];
            move || {
                let text = std::str::from_utf8(&text).unwrap_or_default();
                PresentedKey::parse(text).is_some_and(|key| key.matches(stored.as_ref()))
            }
        })?;
        row(name, settings.samples, &found);
        worst = worst.max(found.t);
    }
    // The same with a comparison that stops at the first difference: it must be seen, or the test is blind.
    let case = by_secret();
    let right = copy(&case.texts[0][0]);
    let control = test(settings.samples, |class, turn| {
        let text = copy(&case.texts[class][turn % (POOL - 1) + 1]);
        move || text.iter().zip(&right).all(|(left, right)| black_box(left == right))
    })?;
    row("control: stops at the first difference", settings.samples, &control);
    ensure!(control.t > LEAKS, "the control is not seen: this machine is too noisy to tell");
    let leaks = worst >= LEAKS;
    let t = (worst * 100.0).round() / 100.0;
    println!("{}", json!({ "bench": "key-check", "samples": settings.samples, "t": t, "leaks": leaks }));
    ensure!(!leaks, "the time of the check tells something");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the table is what this command is for")]
fn row(name: &str, samples: usize, found: &Found) {
    println!("{name:<44} {samples:>10} {:>9.1} {:>9.1} {:>8.2}", found.means[0], found.means[1], found.t);
}

fn key(id: KeyId, secret: [u8; 32]) -> (Secret, [u8; 32]) {
    PresentedKey::generate(id, &Fixed(secret))
}

/// `vk_`, the id, and the secret with its checksum.
const LENGTH: usize = 3 + 26 + 1 + 59;

/// At the same place for each class, so that no memory of its own is measured.
fn copy(key: &Secret) -> [u8; LENGTH] {
    let mut copy = [0; LENGTH];
    copy.copy_from_slice(key.expose().as_bytes());
    copy
}

fn id() -> KeyId {
    KeyId::new(Timestamp::from_millis(1_790_000_000_000), &SystemEntropy)
}

fn random() -> [u8; 32] {
    let entropy: &dyn Entropy = &SystemEntropy;
    entropy.bytes32()
}

/// The id is right; the secret is right but for its end, or not at all.
fn by_secret() -> Case {
    let (id, secret) = (id(), random());
    let stored = Some(key(id, secret).1);
    let near = |number: u8| {
        let mut near = secret;
        near[31] = near[31].wrapping_add(1 + number);
        key(id, near).0
    };
    let texts = [
        (0..POOL).map(|number| near(number.to_le_bytes()[0])).collect(),
        (0..POOL).map(|_| key(id, random()).0).collect(),
    ];
    Case { texts, stored: [vec![stored; POOL], vec![stored; POOL]] }
}

/// What is stored agrees with the presented secret's hash but for its end, or not at all: nobody can choose that, but
/// the comparison itself is measured.
fn by_hash() -> Case {
    let id = id();
    let keys: Vec<_> = (0..POOL).map(|_| key(id, random())).collect();
    let near = |hash: &[u8; 32]| {
        let mut near = *hash;
        near[31] ^= 1;
        Some(near)
    };
    let stored = [keys.iter().map(|(_, hash)| near(hash)).collect(), (0..POOL).map(|_| Some(random())).collect()];
    let texts = || keys.iter().map(|(text, _)| text.clone()).collect();
    Case { texts: [texts(), texts()], stored }
}

/// There is a key with this id, or there is none.
fn by_id() -> Case {
    let keys: Vec<_> = (0..POOL).map(|_| key(id(), random()).0).collect();
    let texts = || keys.clone();
    Case { texts: [texts(), texts()], stored: [(0..POOL).map(|_| Some(random())).collect(), vec![None; POOL]] }
}

/// What a test found.
#[derive(Debug)]
struct Found {
    means: [f64; 2],
    t: f64,
}

/// Takes samples of two classes in random turns.
fn test<F: Fn() -> bool>(samples: usize, prepare: impl Fn(usize, usize) -> F) -> anyhow::Result<Found> {
    let mut state = u64::from_le_bytes(random()[..8].try_into().context("eight bytes")?) | 1;
    let mut take = |turn: usize| {
        // xorshift64: fair enough to take turns by.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let class = usize::from(state >> 63 == 1);
        let check = prepare(class, turn);
        let started = Instant::now();
        for _ in 0..CHECKS {
            black_box(check());
        }
        (class, started.elapsed())
    };
    let mut calibration: Vec<u128> = (0..CALIBRATION).map(|turn| take(turn).1.as_nanos()).collect();
    calibration.sort_unstable();
    let crops: Vec<u128> = [50, 70, 80, 90, 95, 99]
        .iter()
        .map(|percent| calibration[CALIBRATION * percent / 100])
        .chain([u128::MAX])
        .collect();
    let mut tests = vec![Welch::default(); crops.len()];
    for turn in 0..samples {
        let (class, took) = take(turn);
        for (crop, test) in crops.iter().zip(&mut tests) {
            if took.as_nanos() <= *crop {
                test.classes[class].push(took.as_secs_f64() * 1e9);
            }
        }
    }
    // The tail is the machine's: what is above the last crop is shown in no mean.
    let shown = &tests[tests.len() - 2];
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let means = shown.classes.map(|class| class.mean / CHECKS as f64);
    Ok(Found { means, t: tests.iter().map(Welch::t).fold(0.0, f64::max) })
}

/// Mean and variance of one class, as they come (Welford).
#[derive(Debug, Clone, Copy, Default)]
struct Class {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Class {
    fn push(&mut self, value: f64) {
        self.count += 1.0;
        let off = value - self.mean;
        self.mean += off / self.count;
        self.squares += off * (value - self.mean);
    }

    /// Of the mean.
    fn variance(&self) -> f64 {
        self.squares / (self.count - 1.0).max(1.0) / self.count.max(1.0)
    }
}

/// Welch's t-test.
#[derive(Debug, Clone, Copy, Default)]
struct Welch {
    classes: [Class; 2],
}

impl Welch {
    fn t(&self) -> f64 {
        let [left, right] = self.classes;
        // Too few for any word about them.
        if left.count < 1_000.0 || right.count < 1_000.0 {
            return 0.0;
        }
        ((left.mean - right.mean) / (left.variance() + right.variance()).sqrt().max(f64::MIN_POSITIVE)).abs()
    }
}
