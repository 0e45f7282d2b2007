"""What the lessons' exercises are checked against: one module a lesson, one check an exercise.

    case        what a check is made of: cases, and how an answer is compared
    lesson_05   ... the checks of lessons/05_*.py, and so on

A check knows the right answers from the slow twins in `minidetect.reference`, from finite differences or from numbers
worked out by hand, not from the solutions in lessons/solutions. Hypothesis is not used: it is an extra for tests,
and the lessons run with what the package itself needs. The cases are drawn from fixed seeds, many of them tiny,
and of those that an attempt gets wrong the smallest is shown.
"""
