"""The wordings of `planting`: spellings of values, sentences around them, and sentences with innocent numbers.

Slots: # a digit, ¹ from 1, ² from 2, ^ a capital, § a small letter, ~ a letter or digit, ¤ a hex digit, ¥ capital or digit.
`[[...]]` is what must be found.
"""

PHONES = {
    "en": [
        "(²##) ²##-####", "²##-²##-####", "²##.²##.####", "²## ²## ####", "1-²##-²##-####", "+1 ²## ²## ####", "+1 (²##) ²##-####", "+1²##²######",
        "+1.²##.²##.####", "020 7¹## ####", "07¹## ######", "07¹########", "0161 ¹## ####", "(0161) ¹## ####", "01632 ¹#####", "+44 20 7¹## ####",
        "+44 (0)20 7¹## ####", "+447¹########", "0044 7¹## ######", "+44 7¹## ### ###", "0800 ¹## ####", "07¹## ### ###", "(²##)²##-####", "+1-²##-²##-####", "²##-²##-#### x1##",
        "(+44) 20 7¹## ####", "+44-7¹##-######", "020-7¹##-####", "²##/²##-####",
    ],
    "de": [
        "030 ¹######", "030/¹######", "030-¹######", "(030) ¹######", "0171 ¹######", "0171/¹######", "0171-¹######", "0171¹######", "0151 ¹## ## ###",
        "089 / ¹# ## ## ##", "+49 30 ¹######", "+49 (0)30 ¹######", "+49 171 ¹######", "+49171¹######", "0049 171 ¹######", "+49-171-¹######",
        "06221 ¹####", "0221 ¹##-###", "040 ¹# ## ## ##", "+49 (171) ¹######", "(0 30) ¹## ## ##", "+43 1 ¹######", "+41 44 ¹## ## ##", "+49 (0) 89 / ¹#####-##",
        "0171.¹######", "0171 / ¹## ## ##", "00 49 30 ¹######", "030 ¹## ##-##", "+49.171.¹######", "0049(0)30/¹######", "+49 30/¹######",
    ],
    "fr": [
        "0¹ ## ## ## ##", "06 ## ## ## ##", "07.##.##.##.##", "01.¹#.##.##.##", "01-¹#-##-##-##", "06########", "07########", "+33 6 ## ## ## ##",
        "+33 (0)1 ¹# ## ## ##", "+336########", "0033 6 ## ## ## ##", "+33.1.¹#.##.##.##", "0 800 ¹## ###", "+32 2 ¹## ## ##", "04 ¹# ## ## ##", "+33 (0) 6 ## ## ## ##",
        "00 33 1 ¹# ## ## ##", "06-##-##-##-##", "06 ### ### ##", "0612 ## ## ##", "+33 1 ¹#-##-##-##", "(+33) 6 ## ## ## ##",
    ],
}  # fmt: skip

URLS = {
    "en": [
        "the link https://app.example.com/reset?token=[[~~~~~~~~~~~~~~~~~~~~~~~~]] has expired", "it calls https://api.example.com/v2/items?limit=20&api_key=[[¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤]]",
        "repo at https://[[deploy:~~~~~~~~~~~~]]@git.example.com/team/app.git", "download https://files.s3.amazonaws.com/a.pdf?X-Amz-Expires=3600&X-Amz-Signature=[[¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤]]",
        "open https://shop.example.com/confirm/[[¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤]] please", "ftp://[[backup:~~~~~~~~]]@10.example.net/dump",
        "https://hooks.slack.com/services/[[T¥¥¥¥¥¥¥¥/B¥¥¥¥¥¥¥¥/~~~~~~~~~~~~~~~~~~~~~~~~]]", "page https://portal.example.com/home;jsessionid=[[¥¥¥¥¥¥¥¥¥¥¥¥¥¥¥¥¥¥¥¥¥¥¥¥]] hangs",
        "postgresql://[[svc_app:~~~~~~~~~~]]@db.example.com:5432/prod", "https://example.com/login?session=[[~~~~~~~~~~~~~~~~~~~~]]&lang=en", "https://acct.blob.core.windows.net/c/f.csv?sv=2022-11-02&sig=[[~~~~~~~~~~~~~~~~~~~~~~~~~~~~%3D]]",
    ],
}  # fmt: skip
URLS["de"] = [
    *URLS["en"],
    "der Link https://kunde.example.de/passwort?token=[[~~~~~~~~~~~~~~~~~~~~~~]] geht nicht",
    "Freigabe: https://cloud.example.de/s/[[~~~~~~~~~~~~~~~~~~~~~~~~~~~~]]",
]
URLS["fr"] = [
    *URLS["en"],
    "le lien https://espace.example.fr/valider?jeton=1&token=[[~~~~~~~~~~~~~~~~~~~~~~]] ne marche pas",
    "https://espace.example.fr/activation?auth=[[¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤]]",
]

_KEYS = [
    "key [[AKIA¥¥¥¥¥¥¥¥¥¥¥¥¥¥¥¥]]", "pushed with [[ghp_~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~]]", "bot [[xoxb-############-############-~~~~~~~~~~~~~~~~~~~~~~~~]]", "[[sk_live_~~~~~~~~~~~~~~~~~~~~~~~~]]",
    "maps: [[AIza~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~]]", "cookie [[eyJ~~~~~~~~~~~~~~~~~~~~.eyJ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~.~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~]]", "[[glpat-~~~~~~~~~~~~~~~~~~~~]]",
    "[[-----BEGIN RSA PRIVATE KEY-----\n~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~\n~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~\n-----END RSA PRIVATE KEY-----]]", "api_key=[[~~~~~~~~~~~~~~~~~~~~~~~~~~~~]]",
    "API key: [[¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤]]", "Authorization: Bearer [[~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~]]", "client_secret = \"[[~~~~~~~~~~~~~~~~~~~~~~~~]]\"", "aws_secret_access_key = [[~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~]]", "[[hf_~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~]]",
]  # fmt: skip
SECRETS = {
    "en": [*_KEYS, "password: [[§§§§##!]]", "my password is [[^§§§§§##]]", "pwd=[[~~~~~~~~##]]", "Password = [[^§§§-§§§-##]]", "the PIN is [[####]]", "username maria, password [[^§§§§§#!]]", "passcode: [[######]]", "CVV [[###]]", "new password: '[[§§§§§§ §§§§]]'".replace(" §", "§")],
    "de": [*_KEYS, "Passwort: [[§§§§##!]]", "mein Passwort ist [[^§§§§§##]]", "Kennwort=[[~~~~~~~~##]]", "PIN: [[####]]", "das Passwort lautet [[^§§§§###]]", "Kennwort: [[^§§§#§§§]]", "Benutzer max, Passwort [[^§§§§§#!]]", "PIN-Code: [[####]]"],
    "fr": [*_KEYS, "mot de passe : [[§§§§##!]]", "mon mot de passe est [[^§§§§§##]]", "mdp: [[~~~~~~~~##]]", "code PIN : [[####]]", "mot de passe = [[^§§§#§§§]]", "mdp [[^§§§§§#!]]"],
}  # fmt: skip

RECORDS = {
    "en": ["MRN [[#######]]", "MRN: [[^-######]]", "medical record number [[##-##-##]]", "patient ID [[P¹#####]]", "Patient no. [[######]]", "policy number [[^^#########]]", "my policy no is [[##/####/#####]]", "member ID: [[^^^#########]]", "insurance number [[^^ ## ## ##]]",
           "passport number [[#########]]", "passport no. [[^########]]", "driver's license number [[^#######]]", "chart number [[#####]]", "Patient number is [[########]]"],
    "de": ["Patientennummer [[#######]]", "Patienten-Nr. [[######]]", "Patienten-ID: [[P-#####]]", "Versicherungsnummer [[^^-#######]]", "Versicherungsscheinnummer: [[##.###.###-#]]", "Policennummer [[########]]", "Versichertennummer [[^#########]]", "Krankenversichertennummer: [[^#########]]",
           "Reisepassnummer [[C#¥¥#¥¥##]]", "Personalausweisnummer [[L##########]]", "Führerscheinnummer [[^###¥¥¥¥¥##]]", "Mitgliedsnummer [[#######]]", "Meine Police Nr. [[###/######-^]]"],
    "fr": ["numéro de patient [[######]]", "n° de dossier médical [[#######]]", "dossier médical n° [[##-#####]]", "IPP : [[#########]]", "numéro de police [[^#######]]", "police n° [[########]]", "numéro d'adhérent : [[########]]", "n° adhérent [[#######]]", "numéro de passeport [[##^^#####]]", "passeport n° [[##^^#####]]",
           "permis de conduire n° [[############]]", "numéro de mutuelle [[#######]]"],
}  # fmt: skip

ADDRESSES = {
    "en": (
        ["¹# {street}", "¹## {street}", "¹#^ {street}", "Flat #, ¹# {street}", "¹### {street}, Apt #^", "{city} {code}", "{city}, {code}"],
        ["Baker Street", "Oak Avenue", "Elm St", "Station Road", "Church Lane", "N. Lincoln Ave", "Martin Luther King Blvd", "Kingsway Court", "St. James's Square", "Maple Dr.", "Highfield Crescent", "West 42nd Street", "The Grove", "Rose Hill", "MAIN STREET", "Old Mill Rd"],
        [("London", "NW1 6XE"), ("Manchester", "M¹ 1AE"), ("Leeds", "LS#1 4DY"), ("Springfield", "IL 62###"), ("Portland", "OR 97###-####"), ("San Diego", "CA 921##"), ("Austin", "Texas 787##"), ("Edinburgh", "EH1 ¹YJ"), ("Brooklyn", "NY 112##"), ("Bath", "BA2 #AB")],
    ),
    "de": (
        ["{street} ¹#", "{street} ¹##", "{street} #§".replace("§", "a"), "{street} ¹#-1##", "{code} {city}", "{street} ¹#, {code} {city}", "D-{code} {city}"],
        ["Hauptstraße", "Lindenstr.", "Berliner Straße", "Goethestrasse", "Kirchweg", "Marktplatz", "Schlossallee", "Am Stadtring", "Mühlengasse", "Elbchaussee", "Karl-Marx-Allee", "Rosa-Luxemburg-Str.", "Schillerplatz", "Uferweg", "Frankfurter Allee", "Bahnhofstraße"],
        [("München", "80###"), ("Berlin", "10###"), ("Hamburg", "20###"), ("Köln", "50###"), ("Frankfurt am Main", "60###"), ("Leipzig", "04###"), ("Nürnberg", "90###"), ("Freiburg", "79###"), ("Dresden", "01###"), ("Bad Homburg", "61###"), ("Wien", "10#0")],
    ),
    "fr": (
        ["¹# {street}", "¹## {street}", "¹, {street}", "¹# bis {street}", "{code} {city}", "¹#, {street}, {code} {city}"],
        ["rue de la République", "avenue Victor Hugo", "bd Voltaire", "boulevard Saint-Michel", "place de l'Église", "chemin des Vignes", "allée des Tilleuls", "impasse du Moulin", "quai de Seine", "route de Lyon", "Rue Pasteur", "av. Jean Jaurès", "rue du Général de Gaulle", "rue d'Alsace"],
        [("Paris", "750##"), ("Lyon", "6900#"), ("Marseille", "130##"), ("Bordeaux", "33###"), ("Toulouse", "31###"), ("Lille", "59###"), ("Nantes", "44###"), ("Aix-en-Provence", "131##"), ("La Rochelle", "17###"), ("Saint-Étienne", "42###"), ("Rennes", "35###")],
    ),
}  # fmt: skip

NAMES = {
    "en": (
        ["James", "Olivia", "Ethan", "Priya", "Mary", "Hannah", "Liam", "Sophie", "Mohammed", "Grace", "Will", "Daniel", "Chloe", "Aisha", "Peter", "Zoe", "Siobhan", "Carlos", "Mei", "Robert"],
        ["Smith", "Patel", "O'Brien", "Brown", "Thompson", "Nguyen", "Hughes", "Young", "McDonald", "Okafor", "Fitzgerald", "Li", "Garcia", "Whitaker", "Campbell", "Singh", "Green", "Lindqvist", "Parker-Jones", "Cohen"],
    ),
    "de": (
        ["Anna", "Jürgen", "Sabine", "Lukas", "Heike", "Mehmet", "Karl", "Ursula", "Björn", "Claudia", "Friedrich", "Ayşe", "Tobias", "Gisela", "Max", "Ernst"],
        ["Schmidt", "Müller", "Schröder", "Klein", "Hoffmann", "Y\u0131lmaz", "von Bergen", "Groß", "Weißmann", "Kowalski", "Jäger", "Lehmann", "Öztürk", "Braun", "Habermann", "Meyer-Landgraf", "Köhler", "Neumann"],
    ),
    "fr": (
        ["Camille", "Hélène", "Jean", "François", "Amélie", "Mathieu", "Zoé", "Karim", "Élodie", "Bernard", "Léa", "Jacques", "Inès", "Thierry", "Benoît", "Rose"],
        ["Lefèvre", "Dubois", "Petit", "Moreau", "de la Tour", "Benali", "Girard", "Leclerc", "Roux", "Nguyen", "Bélanger", "Chevalier", "Martinez", "Gauthier", "D'Angelo", "Fabre", "Lemoine-Picard", "Traoré"],
    ),
}  # fmt: skip
MENTIONS = {
    "en": [
        "My name is [[{g} {s}]] and I wrote before.", "Please ask [[{g} {s}]] about it.", "ATTN [[{G} {S}]].", "Signed, [[{gl} {sl}]]", "The file of [[{s}, {g}]] is open.", "I spoke with Mr [[{s}]] on it.", "Ms. [[{s}]] called twice.", "Dear [[{g}]],", "Dear Dr [[{s}]],",
        "Sent by [[{i}. {s}]] today.", "From: [[{s}, {i}.]] for you.", "That was [[{g} {s}]]'s parcel.", "Hi [[{g}]], thanks.", "Contract of [[{S}, {G}]] ends.", "for [[{i} {s}]] only.", "Regards,\n[[{g} {s}]]", "user [[{gl}.{sl}]] cannot log in.",
    ],
    "de": [
        "Mein Name ist [[{g} {s}]], ich schrieb schon.", "Bitte fragen Sie [[{g} {s}]] dazu.", "z. Hd. [[{G} {S}]]!", "Akte [[{s}, {g}]] liegt vor.", "Frau [[{s}]] hat angerufen.", "Herrn [[{s}]] fehlt die Ware.", "Hallo [[{g}]],", "Sehr geehrter Herr [[{s}]],", "gez. [[{i}. {s}]] aus dem Lager.",
        "von [[{s}, {i}.]] am Mittag.", "[[{g} {su}]] wartet noch.", "[[{g} {sp}]] wartet noch.", "Liebe [[{g}]], danke.", "Mit freundlichen Grüßen\n[[{g} {s}]]", "gruss [[{gl} {sl}]]", "Herr [[{su}]] kommt.",
    ],
    "fr": [
        "Je m'appelle [[{g} {s}]] et j'ai écrit.", "Demandez à [[{g} {s}]] svp.", "À l'attention de [[{G} {S}]] :", "Dossier [[{s}, {g}]] ouvert.", "Mme [[{s}]] a appelé.", "M. [[{s}]] attend.", "Bonjour [[{g}]],", "Monsieur [[{s}]], bonjour.", "Envoyé par [[{i}. {s}]] hier.",
        "[[{g} {sp}]] attend.", "Cordialement,\n[[{g} {s}]]", "Chère [[{g}]], merci.", "de la part de [[{gl} {sl}]]", "client [[{S} {G}]] connu.", "pour [[{s}, {i}.]] merci.",
    ],
}  # fmt: skip

OPENINGS = {
    "en": ["", "Hello, ", "Hi team, ", "Good morning. ", "FYI ", "I have a question. "],
    "de": ["", "Guten Tag, ", "Hallo Team, ", "Guten Morgen. ", "Ich habe eine Frage. "],
    "fr": ["", "Bonjour, ", "Bonjour à tous, ", "Bonsoir. ", "J'ai une question. "],
}
CLOSINGS = {
    "en": ["", "Thanks a lot.", "Please advise.", "Best wishes.", "It has been two weeks."],
    "de": ["", "Vielen Dank.", "Bitte um Hilfe.", "Viele Grüße.", "Das ist zwei Wochen her."],
    "fr": ["", "Merci beaucoup.", "Merci de votre aide.", "Bien à vous.", "Cela fait deux semaines."],
}
_ANY = {
    "en": ["Here it is: [[]].", "([[]])", "You have [[]] on file.", "I gave you [[]] last time.", "It says [[]] on my side.", "Please use [[]] from now on.", "old one: [[]],", "Changed to [[]] today."],
    "de": ["Hier ist sie: [[]].", "([[]])", "Bei Ihnen steht [[]] drin.", "Ich hatte [[]] angegeben.", "Bitte ab jetzt [[]] verwenden.", "alt: [[]],", "Geändert auf [[]] seit heute."],
    "fr": ["Le voici : [[]].", "([[]])", "Vous avez [[]] chez vous.", "J'avais donné [[]] la dernière fois.", "Merci d'utiliser [[]] désormais.", "ancien : [[]],", "Changé en [[]] aujourd'hui."],
}  # fmt: skip
CUES = {
    "en": {
        "any": _ANY["en"], "phone": [*_ANY["en"], "My number is [[]].", "Call me on [[]] after six.", "phone: [[]]", "Tel. [[]]", "text [[]] instead."], "card": [*_ANY["en"], "My card is [[]].", "charged on card [[]] twice.", "Visa [[]] exp 04/27."],
        "iban": [*_ANY["en"], "IBAN: [[]]", "refund to [[]] please."], "us_ssn": [*_ANY["en"], "SSN [[]]", "my social security number is [[]]."], "uk_nino": [*_ANY["en"], "NI number [[]]", "National Insurance: [[]]."],
        "uk_nhs": ["NHS number [[]]", "NHS no. [[]].", "My NHS number is [[]].", "NHS: [[]]", "the NHS number on the letter is [[]],"], "ip": [*_ANY["en"], "login from [[]].", "host [[]] is down.", "ping [[]] fails."], "address": ["I live at [[]].", "Ship it to [[]] please.", "My address is [[]].", "moved to [[]] in May.", "at [[]], second door."],
    },
    "de": {
        "any": _ANY["de"], "phone": [*_ANY["de"], "Meine Nummer ist [[]].", "Rufen Sie mich unter [[]] an.", "Tel.: [[]]", "Handy [[]]", "Rückruf an [[]] bitte."], "card": [*_ANY["de"], "Karte [[]] wurde belastet.", "Kreditkarte: [[]]"], "iban": [*_ANY["de"], "IBAN: [[]]", "bitte auf [[]] erstatten."],
        "de_tax_id": [*_ANY["de"], "Steuer-ID [[]]", "Steuer-Identifikationsnummer: [[]].", "IdNr. [[]]"], "de_social": [*_ANY["de"], "SV-Nummer [[]]", "Sozialversicherungsnummer: [[]]", "Rentenversicherungsnummer [[]]."], "ip": [*_ANY["de"], "Anmeldung von [[]].", "Server [[]] antwortet nicht."],
        "address": ["Ich wohne in der [[]].", "Bitte an [[]] liefern.", "Meine Adresse ist [[]].", "Umzug nach [[]] im Mai.", "Anschrift: [[]],"],
    },
    "fr": {
        "any": _ANY["fr"], "phone": [*_ANY["fr"], "Mon numéro est le [[]].", "Appelez-moi au [[]] svp.", "tél. [[]]", "Tél : [[]]", "portable [[]]"], "card": [*_ANY["fr"], "Ma carte [[]] est débitée.", "carte bancaire : [[]]"], "iban": [*_ANY["fr"], "IBAN : [[]]", "remboursez sur [[]] svp."],
        "fr_nir": [*_ANY["fr"], "numéro de sécurité sociale : [[]]", "mon numéro de sécu est [[]].", "NIR [[]]", "n° SS [[]],"], "ip": [*_ANY["fr"], "connexion depuis [[]].", "le serveur [[]] ne répond pas."],
        "address": ["J'habite [[]].", "Livrez au [[]] svp.", "Mon adresse est [[]].", "Déménagé à [[]] en mai.", "adresse : [[]],"],
    },
}  # fmt: skip

INNOCENTS = {
    "en": [
        "My order 4####### is late.", "Order ORD-###### never came.", "Ticket #2024#### is open.", "order number ##########", "Ref. 0171-######", "invoice INV-2024-#####", "tracking 1Z¥¥¥¥¥¥##########", "I paid $1,###.¹#.", "It cost 1 2## pounds.", "On 03/15/2024 it broke.", "Since 2024-03-1# 10:30 it fails.",
        "Version 10.0.#.¹ is installed.", "build 2023.1#.0.4", "firmware v2.1#.3.4", "Part KX-²###-^ does not fit.", "SKU 0441-####-##", "ISBN 978-3-16-14####-0", "ISBN 0-306-4####-2", "EAN 40##########", "model RS-²##-¹##^", "It is 120 x 60 x 7# cm.", "Error 0x8007####.", "error ERR-¹##4", "Flight LH ¹### at 08:45.", "In 2019-2023 it was fine.",
        "Case 0030-¹###.", "serial SN ## ### ### ###", "INC00##### was closed.", "id ¤¤¤¤¤¤¤¤-¤¤¤¤-4¤¤¤-a¤¤¤-¤¤¤¤¤¤¤¤¤¤¤¤", "MAC 00:1B:44:11:¤¤:B7", "About 500 000 units.", "The meter shows 00#####.", "Temperature 36.¹ at 07:15:30.", "room 2##, floor ¹", "between 10:00 and 17:30", "commit ¤¤¤¤¤¤¤¤¤¤¤¤", "parcel JD0146000062812##704", "order 4111111111111111",
        "Take 500 mg every 8 hours for 10 days.", "A 5#-year-old with 120/80.", "page 2## of 4##", "see https://docs.example.com/guide/install-2024-edition", "https://example.com/search?q=lamp&page=2", "Your password is required.", "password: required", "The token expired.", "the key fits", "Code SAVE20 gave 15 %.", "batch B-2024-0###", "section 4.2.¹.3", "2 for 1 on 24/7 plans",
        "The purchase 1135####7735902 is wrong.", "customer 20#### asked", "Item 20 Road bikes", "We have 15 Green chairs.", "GBP 42.¹0 and EUR 1.2##,50", "quantity 1###",
    ],
    "de": [
        "Meine Bestellung 4####### fehlt.", "Bestellnummer ##########", "Auftrag 2024-#####", "Ticket #2024####", "Rechnung RE-2024-#####", "Rechnungsnr. 0030-¹####", "Kundennummer 20####", "Vorgang 0171-######", "Das kostet 1.2##,50 EUR.", "Am 15.03.2024 kam nichts.", "seit 2024-03-1#, 10:30 Uhr", "Version 10.0.#.¹ läuft.", "Artikel KX-²###-^",
        "Artikelnummer 0441-####-##", "ISBN 978-3-16-14####-0", "EAN 40##########", "Modell RS-²##-¹##", "Maße 120 x 60 x 7# cm", "Fehler 0x8007####", "Flug LH ¹### um 08:45", "2019-2023 lief es.", "Seriennummer SN ## ### ### ###", "Sendung JD0146000062812##704", "Zählerstand 00#####", "500.000 Stück", "Raum 2##, Etage ¹", "Absatz 4.2.¹.3", "MAC 00:1B:44:11:¤¤:B7",
        "Arbeitsplatz 1# ist frei.", "Parkplatz ## ist voll.", "Seite 2## von 4##", "10:00-17:30 Uhr", "12345 Euro Schaden", "50000 Kunden warten.", "Passwort vergessen.", "Das Passwort ist abgelaufen.", "Passwort: ungültig", "Aktion SOMMER24, 15 %", "Charge B-2024-0###", "Bestellung 4111111111111111", "Im Jahr 2023 gab es 1#.", "Monitoring 2# läuft", "Kapitel ¹.2.3.4", "GTIN 0401234567####",
    ],
    "fr": [
        "Ma commande 4####### manque.", "commande n° ##########", "Facture FA-2024-#####", "ticket #2024####", "référence 0171-######", "dossier 2024-#####", "client 20####", "Cela coûte 1 2##,50 €.", "Le 15/03/2024 rien.", "depuis le 2024-03-1# à 10:30", "Version 10.0.#.¹ installée.", "article KX-²###-^", "réf. 0441-####-##", "ISBN 978-2-07-03####-8",
        "EAN 30##########", "modèle RS-²##-¹##", "120 x 60 x 7# cm", "erreur 0x8007####", "vol AF ¹### à 08h45", "En 2019-2023 tout allait.", "numéro de série SN ## ### ### ###", "colis 6A##########8", "suivi 8R########9", "500 000 unités", "salle 2##, étage ¹", "section 4.2.¹.3", "MAC 00:1B:44:11:¤¤:B7", "page 2## sur 4##", "de 10h00 à 17h30", "50000 Euros de frais", "mot de passe oublié",
        "Le mot de passe est expiré.", "mot de passe : invalide", "code PROMO24, 15 %", "lot B-2024-0###", "commande 4111111111111111", "compteur 00#####", "1 place libre", "3 cours par jour", "température 36,¹ à 07:15:30", "le 05 10 2024 à midi", "chapitre ¹.2.3.4",
    ],
}  # fmt: skip
