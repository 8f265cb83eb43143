// A merge sort whose comparisons are made by a person: which two responses come next follows from the answers so far.

class Question {
  constructor(pair) { this.pair = pair; }
}

/**
 * What to ask next. Responses that are equally good become one group, of which only the first is compared further.
 * @param {number} k number of responses
 * @param {[number, number, number][]} answers [i, j, better] with better -1 for i, 1 for j, 0 for equally good
 * @returns {{pair: [number, number] | null, ranks: number[] | null}} two responses to compare, or the ranks when all is known
 */
export function next(k, answers) {
  let used = 0;
  const compare = (i, j) => {
    if (used === answers.length) throw new Question([i, j]);
    return answers[used++][2];
  };
  try {
    const ranks = Array(k);
    let rank = 1;
    for (const group of sorted(Array.from({ length: k }, (_, i) => [i]), compare)) {
      for (const i of group) ranks[i] = rank;
      rank += 1;
    }
    return { pair: null, ranks };
  } catch (question) {
    if (!(question instanceof Question)) throw question;
    return { pair: question.pair, ranks: null };
  }
}

/** The most comparisons that a merge sort of k responses can need. */
export function most(k) {
  return k < 2 ? 0 : most(Math.ceil(k / 2)) + most(Math.floor(k / 2)) + k - 1;
}

function sorted(groups, compare) {
  if (groups.length < 2) return groups;
  const middle = Math.ceil(groups.length / 2);
  const first = sorted(groups.slice(0, middle), compare);
  const second = sorted(groups.slice(middle), compare);
  const merged = [];
  while (first.length && second.length) {
    const better = compare(first[0][0], second[0][0]);
    if (better < 0) merged.push(first.shift());
    else if (better > 0) merged.push(second.shift());
    else merged.push([...first.shift(), ...second.shift()]);
  }
  return [...merged, ...first, ...second];
}
