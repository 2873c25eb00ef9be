//! Interleavings of callers and refreshes, drawn from seeds: on one thread the order of tasks is what the seed makes it.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::task::{JoinSet, yield_now};
use valetkey_core::{SystemEntropy, Timestamp};

use super::*;

/// Runs of [`many_callers`], each with the seed of its number.
const SEEDS: u64 = 3_000;

/// SplitMix64: small, and the same everywhere.
struct Dice(Cell<u64>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    fn below(&self, limit: u64) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut mixed = self.0.get();
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

async fn pause(times: u64) {
    for _ in 0..times {
        yield_now().await;
    }
}

/// A connection as the database has it: its generation moves when a refresh settles, and each refresh costs one
/// presentation.
#[derive(Default)]
struct Row {
    generation: AtomicU64,
    presented: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

#[derive(Clone, Copy)]
enum Fate {
    Settles,
    Fails,
    Panics,
}

/// What a refresh of this generation does, with yield points before, while and after it is at the provider.
async fn refresh(row: Arc<Row>, seen: u64, pauses: [u64; 3], fate: Fate) -> RefreshEnd {
    pause(pauses[0]).await;
    if row.generation.load(Ordering::SeqCst) != seen {
        return RefreshEnd::Superseded;
    }
    row.presented.fetch_add(1, Ordering::SeqCst);
    let at_once = row.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    row.most_at_once.fetch_max(at_once, Ordering::SeqCst);
    pause(pauses[1]).await;
    row.at_once.fetch_sub(1, Ordering::SeqCst);
    match fate {
        Fate::Settles => {
            row.generation.fetch_add(1, Ordering::SeqCst);
            pause(pauses[2]).await;
            RefreshEnd::Settled
        }
        Fate::Fails => RefreshEnd::Failed("server_error"),
        Fate::Panics => std::panic::resume_unwind(Box::new("scripted")),
    }
}

/// Callers come at drawn moments, hang up at drawn moments, and share what is under way.
async fn many_callers(seed: u64) {
    let dice = Dice::new(seed);
    let (flights, tasks, row) = (Arc::new(Flights::default()), TaskTracker::new(), Arc::new(Row::default()));
    let id = ConnectionId::new(Timestamp::from_millis(0), &SystemEntropy);
    let started = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    let count = 2 + dice.below(30);
    for _ in 0..count {
        let (flights, tasks, row, started) =
            (Arc::clone(&flights), tasks.clone(), Arc::clone(&row), Arc::clone(&started));
        let (arrives, patience) = (dice.below(12), dice.below(3).checked_sub(1).map(|_| dice.below(20)));
        let pauses = [dice.below(4), dice.below(8), dice.below(4)];
        let fate = [Fate::Settles, Fate::Settles, Fate::Settles, Fate::Fails, Fate::Panics]
            [usize::try_from(dice.below(5)).unwrap()];
        callers.spawn(async move {
            pause(arrives).await;
            let before = row.generation.load(Ordering::SeqCst);
            let key = (id, i64::try_from(before).unwrap());
            let mut flight = flights.join(&tasks, key, || {
                started.fetch_add(1, Ordering::SeqCst);
                refresh(Arc::clone(&row), before, pauses, fate)
            });
            match patience {
                // Hangs up.
                Some(steps) => {
                    tokio::select! {
                        biased;
                        end = flight.landed() => Some((before, end)),
                        () = pause(steps) => None,
                    }
                }
                None => Some((before, flight.landed().await)),
            }
        });
    }
    let mut ends: BTreeMap<u64, Vec<RefreshEnd>> = BTreeMap::new();
    while let Some(end) = callers.join_next().await {
        if let Some((before, end)) = end.unwrap() {
            ends.entry(before).or_default().push(end);
        }
    }
    tasks.close();
    // Nobody waits any more, and still everything lands.
    tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await.unwrap_or_else(|_| panic!("seed {seed}: stuck"));
    let settled = usize::try_from(row.generation.load(Ordering::SeqCst)).unwrap();
    let presented = row.presented.load(Ordering::SeqCst);
    assert!(row.most_at_once.load(Ordering::SeqCst) <= 1, "seed {seed}: two refreshes of a generation at once");
    assert!(flights.under_way.lock().unwrap().is_empty(), "seed {seed}: a flight is left on the list");
    assert!(presented <= started.load(Ordering::SeqCst) && settled <= presented, "seed {seed}");
    for (before, ends) in ends {
        let moved = usize::try_from(before).unwrap() < settled;
        assert!(!ends.contains(&RefreshEnd::Settled) || moved, "seed {seed}: told of a success that was none");
        assert!(!ends.contains(&RefreshEnd::Superseded) || moved, "seed {seed}: superseded by nothing");
    }
}

fn on_one_thread(body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(body);
}

#[test]
fn whatever_the_order_one_refresh_of_a_generation_is_at_the_provider_at_once() {
    for seed in 0..SEEDS {
        on_one_thread(many_callers(seed));
    }
}

#[test]
fn who_comes_while_a_refresh_is_under_way_shares_its_end_and_who_comes_later_starts_another() {
    on_one_thread(async {
        let (flights, tasks, row) = (Arc::new(Flights::default()), TaskTracker::new(), Arc::new(Row::default()));
        let key = (ConnectionId::new(Timestamp::from_millis(0), &SystemEntropy), 0);
        let join = |fate| flights.join(&tasks, key, || refresh(Arc::clone(&row), 0, [1, 1, 1], fate));
        let mut first = join(Fate::Fails);
        let mut others: Vec<Flight> = (0..100).map(|_| join(Fate::Settles)).collect();
        assert_eq!(first.landed().await, RefreshEnd::Failed("server_error"));
        for other in &mut others {
            assert_eq!(other.landed().await, RefreshEnd::Failed("server_error"), "they share the first one's end");
        }
        assert_eq!(row.presented.load(Ordering::SeqCst), 1);
        assert_eq!(join(Fate::Settles).landed().await, RefreshEnd::Settled);
        assert_eq!(row.presented.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn a_refresh_that_panics_tells_its_waiters_and_blocks_nobody() {
    on_one_thread(async {
        let (flights, tasks, row) = (Arc::new(Flights::default()), TaskTracker::new(), Arc::new(Row::default()));
        let key = (ConnectionId::new(Timestamp::from_millis(0), &SystemEntropy), 0);
        let join = |fate| flights.join(&tasks, key, || refresh(Arc::clone(&row), 0, [1, 1, 1], fate));
        let (mut one, mut other) = (join(Fate::Panics), join(Fate::Settles));
        assert_eq!(one.landed().await, RefreshEnd::Failed("interrupted"));
        assert_eq!(other.landed().await, RefreshEnd::Failed("interrupted"));
        assert_eq!(join(Fate::Settles).landed().await, RefreshEnd::Settled);
    });
}
