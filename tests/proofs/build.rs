//! Tells the tests whether a PostgreSQL server was given, so that without one they are shown as ignored.

#[expect(clippy::disallowed_methods, reason = "a build script learns of the machine through its environment alone")]
fn is_set(name: &str) -> bool {
    println!("cargo::rerun-if-env-changed={name}");
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

fn main() {
    println!("cargo::rustc-check-cfg=cfg(postgres)");
    // In a full run nothing may be left out: without a server the tests run and fail.
    let given = is_set("VALETKEY_TEST_POSTGRES_URL");
    let full = is_set("VALETKEY_TEST_FULL");
    if given || full {
        println!("cargo::rustc-cfg=postgres");
    }
}
