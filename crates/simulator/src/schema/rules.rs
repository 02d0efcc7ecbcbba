//! The rules for one value: those of a schema and of all schemas that it refers to.

use serde_json::{Map, Value};

/// The most schemas that hold for one value.
const MAX_PARTS: usize = 64;

/// All schemas that hold for one value, with `$ref`, `allOf` and one branch of `anyOf` and `oneOf`
/// resolved.
#[derive(Debug, Default)]
pub(super) struct Rules<'a> {
    parts: Vec<&'a Map<String, Value>>,
}

/// A number's bounds; each is a value and whether the value itself is excluded.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Range {
    pub(super) low: Option<(f64, bool)>,
    pub(super) high: Option<(f64, bool)>,
}

// === impl Rules ===

impl<'a> Rules<'a> {
    /// Collects the rules of `schemas`. With `shortest`, `null` is preferred among branches, so a
    /// schema that refers to itself comes to an end.
    pub(super) fn of(root: &'a Value, schemas: &[&'a Value], shortest: bool) -> Self {
        let mut rules = Self::default();
        for schema in schemas {
            rules.add(root, schema, shortest);
        }
        rules
    }

    fn add(&mut self, root: &'a Value, schema: &'a Value, shortest: bool) {
        let Some(part) = schema.as_object() else {
            return;
        };
        // A part that is there already refers to itself.
        if self.parts.len() >= MAX_PARTS
            || self.parts.iter().any(|known| std::ptr::eq(*known, part))
        {
            return;
        }
        self.parts.push(part);
        if let Some(target) = target(root, part) {
            self.add(root, target, shortest);
        }
        for schema in list(part, "allOf") {
            self.add(root, schema, shortest);
        }
        for key in ["anyOf", "oneOf"] {
            let branches: Vec<&Value> = list(part, key).collect();
            if let Some(branch) = self.branch(root, &branches, shortest) {
                self.add(root, branch, shortest);
            }
        }
    }

    /// Returns the branch to follow: the first whose type agrees with the rules so far.
    fn branch(&self, root: &'a Value, branches: &[&'a Value], shortest: bool) -> Option<&'a Value> {
        let kinds = self.kinds();
        let agrees = |branch: &&Value| {
            let own = Rules::of(root, &[branch], false).kinds();
            match (&kinds, own) {
                (Some(kinds), Some(own)) => !intersect(kinds, &own).is_empty(),
                _ => true,
            }
        };
        let allowed: Vec<&Value> = branches.iter().copied().filter(agrees).collect();
        let null = allowed
            .iter()
            .find(|branch| Rules::of(root, &[branch], false).is_null());
        let other = allowed
            .iter()
            .find(|branch| !Rules::of(root, &[branch], false).is_null());
        let found = if shortest {
            null.or(other)
        } else {
            other.or(null)
        };
        found.or(branches.first()).copied()
    }

    fn is_null(&self) -> bool {
        self.kinds().is_some_and(|kinds| kinds == ["null"])
            || self.constant().is_some_and(Value::is_null)
    }

    fn all<'b>(&'b self, key: &'b str) -> impl Iterator<Item = &'a Value> + 'b {
        self.parts.iter().filter_map(move |part| part.get(key))
    }

    /// Returns the types that all parts allow, or `None` if no part names any.
    fn kinds(&self) -> Option<Vec<&'a str>> {
        let of = |value: &'a Value| match value {
            Value::String(kind) => vec![kind.as_str()],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        self.all("type")
            .map(of)
            .reduce(|one, other| intersect(&one, &other))
    }

    /// Returns the type of the value to make. `null` is taken only if nothing else is allowed, or
    /// if the instance shall be `shortest`. A schema without types is guessed from its keywords.
    pub(super) fn kind(&self, shortest: bool) -> Option<&'a str> {
        if let Some(kinds) = self.kinds() {
            if shortest && kinds.contains(&"null") {
                return Some("null");
            }
            return kinds
                .iter()
                .find(|kind| **kind != "null")
                .or(kinds.first())
                .copied();
        }
        const KEYWORDS: [(&str, &[&str]); 4] = [
            (
                "object",
                &[
                    "properties",
                    "required",
                    "additionalProperties",
                    "minProperties",
                ],
            ),
            ("array", &["items", "prefixItems", "minItems", "maxItems"]),
            (
                "number",
                &[
                    "minimum",
                    "maximum",
                    "exclusiveMinimum",
                    "exclusiveMaximum",
                    "multipleOf",
                ],
            ),
            ("string", &["pattern", "format", "minLength", "maxLength"]),
        ];
        KEYWORDS
            .into_iter()
            .find(|(_, keywords)| keywords.iter().any(|key| self.all(key).next().is_some()))
            .map(|(kind, _)| kind)
    }

    /// Returns the value that a `const` demands.
    pub(super) fn constant(&self) -> Option<&'a Value> {
        self.all("const").next()
    }

    /// Returns the values that all `enum`s and the types allow, or `None` without an `enum`.
    pub(super) fn choices(&self) -> Option<Vec<&'a Value>> {
        let kinds = self.kinds();
        let mut lists = self.all("enum").filter_map(Value::as_array);
        let first = lists.next()?;
        let rest: Vec<&Vec<Value>> = lists.collect();
        let allowed = |value: &&Value| {
            rest.iter().all(|list| list.contains(value))
                && kinds
                    .as_ref()
                    .is_none_or(|kinds| kinds.iter().any(|kind| is_a(value, kind)))
        };
        Some(first.iter().filter(allowed).collect())
    }

    /// Returns the names of all properties in order, each with its schemas.
    pub(super) fn properties(&self) -> Vec<(&'a str, Vec<&'a Value>)> {
        let mut properties: Vec<(&str, Vec<&Value>)> = Vec::new();
        for (name, schema) in self
            .all("properties")
            .filter_map(Value::as_object)
            .flatten()
        {
            match properties.iter_mut().find(|(known, _)| known == name) {
                Some((_, schemas)) => schemas.push(schema),
                None => properties.push((name, vec![schema])),
            }
        }
        properties
    }

    /// Returns the names that any part requires.
    pub(super) fn required(&self) -> Vec<&'a str> {
        self.all("required")
            .filter_map(Value::as_array)
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// Returns the schemas under `key` that are objects, such as those of `items`.
    pub(super) fn schemas(&self, key: &str) -> Vec<&'a Value> {
        self.all(key).filter(|schema| schema.is_object()).collect()
    }

    /// Returns the schemas of the item at `index`: of `prefixItems`, else of `items`.
    pub(super) fn item(&self, index: usize) -> Vec<&'a Value> {
        self.parts
            .iter()
            .filter_map(|part| {
                let prefix = part.get("prefixItems").and_then(Value::as_array);
                prefix
                    .and_then(|prefix| prefix.get(index))
                    .or_else(|| part.get("items"))
            })
            .filter(|schema| schema.is_object())
            .collect()
    }

    /// Returns the number of items that `prefixItems` describes.
    pub(super) fn prefix(&self) -> usize {
        self.all("prefixItems")
            .filter_map(Value::as_array)
            .map(Vec::len)
            .max()
            .unwrap_or(0)
    }

    /// Returns the largest of the bounds under `key`, such as `minItems`.
    pub(super) fn least(&self, key: &str) -> Option<usize> {
        self.all(key).filter_map(size).max()
    }

    /// Returns the smallest of the bounds under `key`, such as `maxItems`.
    pub(super) fn most(&self, key: &str) -> Option<usize> {
        self.all(key).filter_map(size).min()
    }

    /// Returns whether any part sets the flag `key`.
    pub(super) fn flag(&self, key: &str) -> bool {
        self.all(key).any(|value| *value == Value::Bool(true))
    }

    /// Returns the first text under `key`.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.all(key).find_map(Value::as_str)
    }

    /// Returns `multipleOf`, if it is above zero.
    pub(super) fn step(&self) -> Option<f64> {
        self.all("multipleOf")
            .filter_map(Value::as_f64)
            .find(|step| *step > 0.0)
    }

    /// Returns the narrowest bounds of a number.
    pub(super) fn range(&self) -> Range {
        let mut range = Range::default();
        for part in &self.parts {
            let number = |key: &str| part.get(key).and_then(Value::as_f64);
            // Draft 4 has a flag beside the inclusive bound.
            let open = |key: &str| part.get(key) == Some(&Value::Bool(true));
            let lows = [
                number("minimum").map(|low| (low, open("exclusiveMinimum"))),
                number("exclusiveMinimum").map(|low| (low, true)),
            ];
            for (low, open) in lows.into_iter().flatten() {
                if range
                    .low
                    .is_none_or(|(known, shut)| (low, open) > (known, shut))
                {
                    range.low = Some((low, open));
                }
            }
            let highs = [
                number("maximum").map(|high| (high, open("exclusiveMaximum"))),
                number("exclusiveMaximum").map(|high| (high, true)),
            ];
            for (high, open) in highs.into_iter().flatten() {
                if range
                    .high
                    .is_none_or(|(known, shut)| high < known || (high == known && open && !shut))
                {
                    range.high = Some((high, open));
                }
            }
        }
        range
    }
}

/// Returns the schema that a `$ref` into the same document refers to.
fn target<'a>(root: &'a Value, part: &Map<String, Value>) -> Option<&'a Value> {
    match part.get("$ref")?.as_str()?.strip_prefix('#')? {
        "" => Some(root),
        pointer => root
            .pointer(pointer)
            .or_else(|| root.pointer(&unescape(pointer))),
    }
}

/// Decodes `%20` and the like, which a URI fragment may contain.
fn unescape(pointer: &str) -> String {
    let bytes = pointer.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(byte) = bytes.get(index) {
        let code = pointer
            .get(index + 1..index + 3)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                decoded.push(code);
                index += 3;
            }
            _ => {
                decoded.push(*byte);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn list<'a>(part: &'a Map<String, Value>, key: &str) -> impl Iterator<Item = &'a Value> {
    part.get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn size(value: &Value) -> Option<usize> {
    value
        .as_u64()
        .map(|size| usize::try_from(size).unwrap_or(usize::MAX))
}

/// Returns the types that both lists allow; an integer is a number.
fn intersect<'a>(one: &[&'a str], other: &[&'a str]) -> Vec<&'a str> {
    let mut common: Vec<&str> = one
        .iter()
        .copied()
        .filter(|kind| other.contains(kind) || (*kind == "integer" && other.contains(&"number")))
        .collect();
    if one.contains(&"number") && !one.contains(&"integer") {
        common.extend(other.iter().filter(|kind| **kind == "integer"));
    }
    common
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}
