use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{http_client, reply};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey-sandbox"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[tokio::test]
async fn the_program_prints_its_address_obeys_its_options_and_ends_with_its_parent() {
    let settings = r#"{"accounts":[{"id":"user-c","name":"User C"}]}"#;
    let mut program =
        command(&["--class", "grace:7", "--auto-consent", "--settings", settings, "--until-eof"]).spawn().unwrap();
    let mut address = String::new();
    BufReader::new(program.stdout.take().unwrap()).read_line(&mut address).unwrap();
    let address = address.trim_end();
    assert!(address.starts_with("http://127.0.0.1:"));
    let get = async |path: &str| {
        let response = http_client().get(format!("{address}{path}")).send().await.unwrap();
        reply(response).await.1
    };
    let clients: Value = get("/control/clients").await;
    assert_eq!(clients[0]["rotation"]["grace"]["seconds"], 7);
    let settings = get("/control/settings").await;
    assert_eq!((&settings["auto_consent"], &settings["accounts"][0]["id"]), (&true.into(), &"user-c".into()));
    drop(program.stdin.take());
    assert!(program.wait().unwrap().success());
}

#[test]
fn a_wrong_option_is_explained_and_fails() {
    for (arguments, why) in [
        (&["--class", "lenient"][..], "there is no rotation class \"lenient\""),
        (&["--port", "x"], "the port is not a number up to 65535"),
        (&["--settings", r#"{"x":1}"#], "unknown field `x`"),
        (&["--whatever"], "there is no option --whatever"),
    ] {
        let mut program = command(arguments).spawn().unwrap();
        assert!(!program.wait().unwrap().success());
        let mut text = String::new();
        program.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(text.contains(why), "{text}");
    }
}
