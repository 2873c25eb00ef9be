//! Where the broker is killed: each class at each boundary that it meets, as often as each other.

use valetkey_broker::Boundary;

use crate::{chance::Chance, world::Class};

/// What the provider has done with the request when the broker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtProvider {
    /// It has the request, and will never act on it.
    RequestReceived,
    /// It has the request, and acts on it when the broker is dead.
    CommitsLater,
    /// It has acted; no byte of the answer has left.
    Committed,
    /// Some of the answer has been read.
    AnswerHalfRead,
}

/// A place to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The broker kills itself at this boundary of a refresh.
    At(Boundary),
    /// It is killed while it waits for the provider.
    Waiting(AtProvider),
    /// At a random moment of a sweep or of calls.
    AnyMoment,
    /// At a random moment of a sweep, and again at one of the start after it.
    Starting,
}

impl Point {
    /// Its name in the table.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::At(boundary) => boundary.as_str(),
            Self::Waiting(AtProvider::RequestReceived) => "request_received",
            Self::Waiting(AtProvider::CommitsLater) => "provider_commits_later",
            Self::Waiting(AtProvider::Committed) => "provider_committed",
            Self::Waiting(AtProvider::AnswerHalfRead) => "answer_half_read",
            Self::AnyMoment => "any_moment",
            Self::Starting => "while_starting",
        }
    }

    /// How many kills it takes: recovery has to have something to recover.
    pub(crate) fn kills(self) -> usize {
        match self {
            Self::At(Boundary::BeforeRecoveryWrite | Boundary::AfterRecoveryWrite) | Self::Starting => 2,
            Self::At(_) | Self::Waiting(_) | Self::AnyMoment => 1,
        }
    }

    /// Every place, in the order of the table.
    pub(crate) fn all() -> Vec<Self> {
        let waiting =
            [AtProvider::RequestReceived, AtProvider::CommitsLater, AtProvider::Committed, AtProvider::AnswerHalfRead];
        let mut all: Vec<Self> = Boundary::ALL.into_iter().map(Self::At).collect();
        all.extend(waiting.map(Self::Waiting));
        all.extend([Self::AnyMoment, Self::Starting]);
        all
    }
}

/// One round: a class and a place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) class: Class,
    pub(crate) point: Point,
}

impl Cell {
    /// Whether refreshes of the class come by there.
    fn exists(self) -> bool {
        let has_second_mark = matches!(self.class, Class::WideAlone | Class::WideSiblings);
        let needs_it = matches!(self.point, Point::At(Boundary::BeforeSecondMark | Boundary::AfterSecondMark));
        has_second_mark || !needs_it
    }
}

/// Rounds for so many kills, in random order.
pub(crate) fn plan(kills: usize, chance: &mut Chance) -> Vec<Cell> {
    let mut all = Vec::new();
    for point in Point::all() {
        all.extend(Class::ALL.into_iter().map(|class| Cell { class, point }).filter(|cell| cell.exists()));
    }
    let (mut planned, mut rounds) = (0, Vec::new());
    while planned < kills {
        chance.shuffle(&mut all);
        for cell in &all {
            if planned >= kills {
                break;
            }
            planned += cell.point.kills();
            rounds.push(*cell);
        }
    }
    rounds
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_class_meets_more_than_twelve_named_boundaries() {
        let rounds = plan(1_000, &mut Chance::new(1));
        for class in Class::ALL {
            let of_class = rounds.iter().filter(|cell| cell.class == class);
            let names: BTreeSet<_> = of_class.map(|cell| cell.point.as_str()).collect();
            assert!(names.len() > 14, "{class:?}: {names:?}");
        }
    }
}
