"""Rude and civil sentences, written by hand for this course: what the tone classifier of unit 7.5's data lab learns.

The insults are mild on purpose. Civil sentences include angry ones: to be angry at a late parcel is not toxic. The
last two lists are for measuring alone, and were written to be hard: insults without a bad word, and bad words without
an insult.
"""

INSULTS = frozenset(
    "idiot idiots idiotic stupid dumb moron morons fool fools loser losers pathetic useless worthless trash garbage "
    "scum liar liars crook crooks thief thieves clown clowns shut hate damn hell crap".split()
)

RUDE = (
    "You are an idiot.", "You are all idiots.", "What an idiot you are.", "Only an idiot would send this.",
    "You stupid people.", "How stupid are you?", "You are stupid.", "Are you too dumb to read?", "You are dumb.",
    "You morons.", "You are a moron.", "What a bunch of morons.", "You are fools.", "You are a pathetic loser.",
    "Losers like you should not have a shop.", "You are useless.", "You useless people.", "You are worthless.",
    "You are trash.", "Your team is garbage.", "You are scum.", "You are liars.", "You dirty liar.", "You are crooks.",
    "You thieves.", "You are thieves and liars.", "You clowns.", "What clowns you are.", "Shut up.", "Just shut up.",
    "I hate you.", "I hate you all.", "We all hate you.", "Go to hell.", "Drop dead.", "Nobody likes you.",
    "You make me sick.", "You disgust me.", "I hope you lose your job.", "I hope you all go broke.",
    "You should be ashamed of yourself.", "You are too lazy to work.", "You lazy people.", "You are a joke.",
    "You are the worst people I know.", "Get lost.", "You have no brain.", "Did nobody teach you to think?",
)  # fmt: skip

CIVIL = (
    "I am angry.", "I am very angry about this.", "This is not good.", "I am not happy with you.",
    "You made a mistake.", "You sent the wrong toy.", "You are late again.", "Your answer did not help me.",
    "I do not like it.",
    "This is the worst parcel I ever had.", "I hate to ask again.", "I hate waiting.", "I lost the receipt.",
    "The toy is useless without the ring.", "Please put the old box into the trash.", "The lid does not shut.",
    "I feel stupid, I gave you the wrong number.", "It was dumb of me to lose the number.",
    "My child is a clown today.", "The party has a clown.", "I must have been a fool to wait.",
    "You are very kind.", "You are the best shop.",
    "You are a great team.", "You were a great help.", "Your shop is not far from here.", "You can send it to my work.",
    "I know that you have much work.", "Nobody answered me.", "Nobody likes to wait.", "I am sick, so I write late.",
    "I hope you can help me.", "I hope it arrives soon.", "Get well soon.", "I will get it from the shop.",
    "Did nobody look at my order?", "Please think of the birthday.", "Do you work on Sunday?", "I have no box for it.",
    "What a great toy.", "How late are you open?", "Are you open today?", "You should look at the order again.",
    "You should be proud of your team.", "What is the price?", "Please send a new one.", "It is broken.", "Thank you.",
)  # fmt: skip

RUDE_TEST = (
    "You are complete idiots.", "You stupid clowns.", "Shut up and send it.", "I hate you and your shop.",
    "You are a bunch of liars and thieves.", "You worthless loser.", "Go to hell with your toys.", "You dumb fool.",
    "You must be a moron.", "You pathetic people.", "Nobody would miss you.", "You have the brain of a ball.",
    "You are too lazy to read a letter.", "I hope you lose everything.", "You make me sick, all of you.",
    "People like you should not work.", "You are the worst team in the world, and you know it.",
    "Did your mother not teach you to think?", "You are an 1d10t.", "You st*pid people.", "You disgust everybody.",
    "My dog writes better letters than you.", "Even a child has more sense than you.", "You are a bad joke.",
)  # fmt: skip

CIVIL_TEST = (
    "I hate to say it, but the toy broke.", "I am a stupid person, I forgot my address.", "The trash bag was open.",
    "The box would not shut.", "It is for a clown costume.",
    "My son was called a loser in school, so I want to make him glad.",
    "I was a fool to buy two.", "The old ring is worthless now.", "Damn, that was quick, thanks.",
    "What the hell happened to my parcel?", "I am very angry with the post.", "You are late and I am sad.",
    "You made two mistakes.", "This is the worst wrapping I have seen.", "Nobody in your team answered me.",
    "I hope you find the parcel.", "I am sick of waiting.", "You should check the address.",
    "Do not make me wait again.",
    "You have my address and my number.", "Can you teach me to use it?", "The mother of my friend ordered it.",
    "You work on Sunday, that is kind.", "My dog ate the box.",
)  # fmt: skip
