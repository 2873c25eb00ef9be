//! Named gates, at which requests wait until a test lets them go on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// All gates by name; a gate that nobody mentioned yet is closed.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    by_name: Mutex<HashMap<String, Arc<Gate>>>,
}

#[derive(Debug)]
struct Gate {
    open: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
}

impl Gates {
    fn find_or_make(&self, name: &str) -> Arc<Gate> {
        let mut gates = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = gates
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Gate { open: watch::Sender::new(false), waiting: watch::Sender::new(0) }));
        Arc::clone(gate)
    }

    /// Closes an open gate; requests that it let go on are not called back.
    pub(crate) fn close(&self, name: &str) {
        let mut gates = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if gates.get(name).is_some_and(|gate| *gate.open.borrow()) {
            gates.remove(name);
        }
    }

    /// Opens the gate for all who wait and all who come.
    pub(crate) fn release(&self, name: &str) {
        self.find_or_make(name).open.send_replace(true);
    }

    pub(crate) fn release_all(&self) {
        let gates = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        for gate in gates.values() {
            gate.open.send_replace(true);
        }
    }

    /// Waits at the gate.
    pub(crate) async fn pass(&self, name: &str) {
        let gate = self.find_or_make(name);
        let mut open = gate.open.subscribe();
        gate.waiting.send_modify(|count| *count += 1);
        let _leaving = Leaving(Arc::clone(&gate));
        // The sender lives in `gate`, so that waiting cannot fail.
        let _ = open.wait_for(|open| *open).await;
    }

    /// Waits until so many requests stand at the gate.
    pub(crate) async fn wait_until_held(&self, name: &str, count: usize) {
        let gate = self.find_or_make(name);
        let mut waiting = gate.waiting.subscribe();
        let _ = waiting.wait_for(|waiting| *waiting >= count).await;
    }
}

struct Leaving(Arc<Gate>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|count| *count -= 1);
    }
}
