//! Crash and replica runs with the sandbox's ledger as the oracle.
