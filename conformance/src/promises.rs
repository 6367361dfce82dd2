//! [`Promises`]: which scenarios a store promises to survive, and what it does where it cannot.

use std::collections::BTreeMap;

/// What a store promises about one scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Promise {
    /// It survives it.
    Promised,
    /// It cannot by its nature, and this is asserted instead.
    Weaker(String),
    /// It cannot happen to it, for this reason.
    NotApplicable(String),
}

/// What a store promises about each scenario. Everything, unless it says otherwise.
///
/// ```
/// use lock_conformance::Promises;
///
/// let promises = Promises::all()
///     .weaker(19, "in no order, but nobody is left out")
///     .not_applicable(2, "lives in one process");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promises {
    exceptions: BTreeMap<u32, Promise>,
}

/// The promises of this project's own stores: for each scenario its name, and what each store says of it.
pub const MATRIX: &str = include_str!("../matrix.toml");

impl Promises {
    /// Every scenario.
    pub fn all() -> Promises {
        Promises::default()
    }

    /// The scenario of this number is survived only in a weaker way.
    #[must_use]
    pub fn weaker(mut self, number: u32, instead: impl Into<String>) -> Promises {
        self.exceptions.insert(number, Promise::Weaker(instead.into()));
        self
    }

    /// The scenario of this number cannot happen to the store.
    #[must_use]
    pub fn not_applicable(mut self, number: u32, why: impl Into<String>) -> Promises {
        self.exceptions.insert(number, Promise::NotApplicable(why.into()));
        self
    }

    /// A column of [`MATRIX`].
    ///
    /// # Errors
    /// What is wrong with the matrix.
    pub fn of(store: &str) -> Result<Promises, String> {
        let mut promises = Promises::all();
        for row in rows()? {
            let cell = row.stores.get(store);
            let promise = cell.ok_or_else(|| format!("scenario {} says nothing of {store}", row.number))?;
            if *promise != Promise::Promised {
                promises.exceptions.insert(row.number, promise.clone());
            }
        }
        Ok(promises)
    }

    /// [`Promises::of`] for a test program of this project.
    ///
    /// # Panics
    /// When the matrix is wrong: a test program has nothing better to do about it.
    #[doc(hidden)]
    #[expect(clippy::panic, reason = "as it says")]
    pub fn of_this_project(store: &str) -> Promises {
        Promises::of(store).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    /// What is promised about the scenario of this number.
    pub fn about(&self, number: u32) -> &Promise {
        self.exceptions.get(&number).unwrap_or(&Promise::Promised)
    }
}

/// One scenario's row in the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Row {
    /// The scenario's number.
    pub number: u32,
    /// `group::name`.
    pub name: String,
    /// What each store says of it.
    pub stores: BTreeMap<String, Promise>,
}

/// The rows of [`MATRIX`].
///
/// # Errors
/// What is wrong with it, and where.
pub fn rows() -> Result<Vec<Row>, String> {
    let table: toml::Table = MATRIX.parse().map_err(|error| format!("matrix.toml: {error}"))?;
    let mut rows = Vec::new();
    for (number, row) in &table {
        let wrong = |what: &str| format!("matrix.toml, scenario {number}: {what}");
        let parsed = number.parse().map_err(|_| wrong("its name is not a number"))?;
        let row = row.as_table().ok_or_else(|| wrong("not a table"))?;
        let mut name = None;
        let mut stores = BTreeMap::new();
        for (column, cell) in row {
            let text = cell.as_str().ok_or_else(|| wrong(&format!("{column} is not a text")))?;
            if column == "name" {
                name = Some(text.to_owned());
            } else {
                let promise = promise(text).ok_or_else(|| {
                    wrong(&format!(
                        "{column} is neither \"promised\" nor \"weaker: …\" nor \"not applicable: …\""
                    ))
                })?;
                stores.insert(column.clone(), promise);
            }
        }
        let name = name.ok_or_else(|| wrong("it has no name"))?;
        rows.push(Row { number: parsed, name, stores });
    }
    rows.sort_by_key(|row| row.number);
    Ok(rows)
}

fn promise(text: &str) -> Option<Promise> {
    let reason = |prefix: &str| {
        let reason = text.strip_prefix(prefix)?.trim();
        (!reason.is_empty()).then(|| reason.to_owned())
    };
    match text {
        "promised" => Some(Promise::Promised),
        _ => reason("weaker:")
            .map(Promise::Weaker)
            .or_else(|| Some(Promise::NotApplicable(reason("not applicable:")?))),
    }
}
