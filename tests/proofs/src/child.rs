//! A broker in a process of its own, that can be killed.

use std::{os::unix::process::ExitStatusExt, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{ChildStdin, ChildStdout, Command},
    time::{Instant, timeout, timeout_at},
};

use crate::order::{Order, Ready, ServeSettings};

/// How long a process may take for anything before the proof gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker process; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) ready: Ready,
    process: tokio::process::Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// A process that has been started and may not be ready.
#[derive(Debug)]
pub(crate) struct Starting {
    process: tokio::process::Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// This program, even if another was built in its place meanwhile.
fn this_program() -> std::io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok(PathBuf::from("/proc/self/exe")) } else { std::env::current_exe() }
}

impl Starting {
    /// Starts this program again as a broker.
    pub(crate) fn spawn(settings: &ServeSettings) -> anyhow::Result<Self> {
        let mut process = Command::new(this_program()?)
            .arg("serve")
            .arg(serde_json::to_string(settings)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the broker process does not start")?;
        let orders = process.stdin.take().context("the broker process has no input")?;
        let stdout = process.stdout.take().context("the broker process has no output")?;
        Ok(Self { process, orders, answers: BufReader::new(stdout).lines() })
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(mut self) -> anyhow::Result<Child> {
        let line = timeout(PATIENCE, self.answers.next_line()).await.context("the broker does not get ready")??;
        self.begun(line)
    }

    /// Waits until it is ready; kills it at whatever it is doing if it is not by then.
    pub(crate) async fn ready_before(mut self, moment: Instant) -> anyhow::Result<Option<Child>> {
        let Ok(line) = timeout_at(moment, self.answers.next_line()).await else {
            self.process.kill().await?;
            return Ok(None);
        };
        self.begun(line?).map(Some)
    }

    fn begun(self, line: Option<String>) -> anyhow::Result<Child> {
        let line = line.context("the broker ended before it was ready")?;
        let ready = serde_json::from_str(&line).context("the broker's first line is not what it should be")?;
        Ok(Child { ready, process: self.process, orders: self.orders, answers: self.answers })
    }
}

impl Child {
    /// Starts a broker and waits until it is ready.
    pub(crate) async fn start(settings: &ServeSettings) -> anyhow::Result<Self> {
        Starting::spawn(settings)?.ready().await
    }

    /// Gives an order and does not wait for its answer. A process that is dead by now takes no notice.
    pub(crate) async fn give(&mut self, order: &Order) -> anyhow::Result<()> {
        let line = serde_json::to_string(order)? + "\n";
        // That nobody reads any more is learned from the answer that does not come.
        let _ = self.orders.write_all(line.as_bytes()).await;
        Ok(())
    }

    /// The answer to the oldest order that has none; `None` if the process died.
    pub(crate) async fn answer(&mut self) -> anyhow::Result<Option<Value>> {
        let line = timeout(PATIENCE, self.answers.next_line()).await.context("the broker does not answer")?;
        let Some(line) = line.unwrap_or(None) else { return Ok(None) };
        let answer: Value = serde_json::from_str(&line).context("the broker's answer is not JSON")?;
        if let Some(error) = answer.get("error") {
            bail!("the broker could not obey: {error}");
        }
        Ok(Some(answer))
    }

    /// Gives an order and waits for its answer; `None` if the process died of it.
    pub(crate) async fn try_order(&mut self, order: &Order) -> anyhow::Result<Option<Value>> {
        self.give(order).await?;
        self.answer().await
    }

    /// The same for an order that nobody is to die of.
    pub(crate) async fn order(&mut self, order: &Order) -> anyhow::Result<Value> {
        self.try_order(order).await?.with_context(|| format!("the broker died of {order:?}"))
    }

    /// Kills it, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.process.kill().await?)
    }

    /// Waits at most so long for it to die by SIGKILL; false if it lives still.
    pub(crate) async fn died_within(&mut self, limit: Duration) -> anyhow::Result<bool> {
        match timeout(limit, self.process.wait()).await {
            Ok(status) => {
                let status = status?;
                if status.signal() != Some(Signal::KILL.as_raw()) {
                    bail!("the broker ended by itself: {status}");
                }
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }

    /// Sends a signal: `Signal::STOP` freezes it, `Signal::CONT` thaws it.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("it has ended")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits until it is frozen.
    pub(crate) async fn frozen(&self) -> anyhow::Result<()> {
        let stat = format!("/proc/{}/stat", self.process.id().context("it has ended")?);
        let waiting = async {
            loop {
                let text = tokio::fs::read_to_string(&stat).await.context("it has ended")?;
                // The state stands behind the name, which may hold anything.
                if text.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T')) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, waiting).await.context("the broker does not freeze")?
    }

    /// Stops it by SIGTERM and waits for its end; false if it left something unfinished.
    pub(crate) async fn terminate(mut self) -> anyhow::Result<bool> {
        self.signal(Signal::TERM)?;
        // A process that still reads its input does not end.
        drop(self.orders);
        let status = timeout(PATIENCE, self.process.wait()).await.context("the broker does not stop")??;
        Ok(status.success())
    }
}
