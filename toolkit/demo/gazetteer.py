"""Names of places and words around names, for `toolkit.demo.mentions`.

Old names stand beside new ones, because the messages begin in 1790. Plain tuples and strings, split at import.
"""

from __future__ import annotations

from typing import Final

STATES: Final = (
    "Alabama|Alaska|Arizona|Arkansas|California|Colorado|Connecticut|Delaware|Florida|Georgia|Hawaii|Idaho|Illinois|"
    "Indiana|Iowa|Kansas|Kentucky|Louisiana|Maine|Maryland|Massachusetts|Michigan|Minnesota|Mississippi|Missouri|"
    "Montana|Nebraska|Nevada|New Hampshire|New Jersey|New Mexico|New York|North Carolina|North Dakota|Ohio|Oklahoma|"
    "Oregon|Pennsylvania|Rhode Island|South Carolina|South Dakota|Tennessee|Texas|Utah|Vermont|Virginia|Washington|"
    "West Virginia|Wisconsin|Wyoming|District of Columbia|Puerto Rico|Porto Rico|Guam|American Samoa|Virgin Islands|"
    "Indian Territory|Northwest Territory|Dakota"
).split("|")

COUNTRIES: Final = (
    "United States of America|United States|America|Abyssinia|Afghanistan|Albania|Algeria|Algiers|Angola|Argentina|"
    "Argentine Republic|Armenia|Australia|Austria|Austria-Hungary|Bahrain|Bangladesh|Barbary|Bavaria|Belarus|Belgium|"
    "Bolivia|Bosnia|Brazil|Bulgaria|Burma|Cambodia|Canada|Central America|Chad|Chile|Chili|China|Colombia|Congo|"
    "Corea|Costa Rica|Crete|Croatia|Cuba|Cyprus|Czechoslovakia|Czech Republic|Denmark|Dominican Republic|"
    "East Germany|West Germany|East Indies|West Indies|Ecuador|Egypt|El Salvador|England|Estonia|Ethiopia|Finland|"
    "France|Germany|Ghana|Great Britain|Greece|Greenland|Grenada|Guatemala|Guinea|Haiti|Hayti|Hanover|Hawaiian Islands|"
    "Holland|Honduras|Hong Kong|Hungary|Iceland|India|Indochina|Indonesia|Iran|Iraq|Ireland|Israel|Italy|Jamaica|Japan|"
    "Jordan|Kenya|Korea|North Korea|South Korea|Kosovo|Kuwait|Laos|Latin America|Latvia|Lebanon|Liberia|Libya|"
    "Lithuania|Luxembourg|Malaysia|Manchuria|Mexico|Middle East|Montenegro|Morocco|Mozambique|Namibia|Netherlands|"
    "New Granada|New Zealand|Nicaragua|Nigeria|North America|North Vietnam|Northern Ireland|Norway|Pakistan|Panama|"
    "Paraguay|Persia|Peru|Philippines|Philippine Islands|Poland|Portugal|Prussia|Rhodesia|Romania|Roumania|Russia|"
    "Rwanda|Samoa|San Domingo|Santo Domingo|Sandwich Islands|Sardinia|Saudi Arabia|Saxony|Scotland|Serbia|Siam|"
    "Siberia|Sicily|Somalia|South Africa|South America|South Vietnam|Soviet Union|Spain|Sudan|Sweden|Switzerland|"
    "Syria|Taiwan|Thailand|The Hague|Tripoli|Tunis|Tunisia|Turkey|Two Sicilies|Uganda|Ukraine|United Kingdom|Uruguay|"
    "Venezuela|Vietnam|Viet-Nam|Viet Nam|Yemen|Yugoslavia|Zaire|Zimbabwe|Europe|Eastern Europe|Western Europe|Asia|"
    "Southeast Asia|Africa|Caribbean"
).split("|")

TOWNS_AND_REGIONS: Final = (
    "Albany|Annapolis|Appomattox|Atlanta|Baghdad|Baltimore|Beijing|Berlin|Bering Sea|Behring Sea|Boston|Brussels|"
    "Buenos Ayres|Buenos Aires|Buffalo|Cairo|Camp David|Canton|Charleston|Chicago|Cincinnati|Cleveland|"
    "Constantinople|Copenhagen|Dallas|Denver|Detroit|Galveston|Geneva|Gettysburg|Guantanamo|Gulf of Mexico|"
    "Gulf of Tonkin|Halifax|Hanoi|Harpers Ferry|Havana|Hiroshima|Hoover Dam|Houston|Iwo Jima|Jerusalem|Kabul|Key West|"
    "Las Vegas|Liverpool|London|Los Angeles|Madrid|Manila|Memphis|Mobile|Monterey|Moscow|Muscle Shoals|New England|"
    "New Orleans|New York City|Newfoundland|Newport|Norfolk|Normandy|Nova Scotia|Oklahoma City|Paris|Pearl Harbor|"
    "Peking|Pensacola|Persian Gulf|Philadelphia|Pittsburgh|Port Royal|Portland|Potsdam|Quebec|Red Sea|Richmond|"
    "Rio Grande|Rio de Janeiro|Rome|Saigon|St. Louis|St. Petersburg|Salt Lake City|San Antonio|San Francisco|"
    "San Juan|Santa Fe|Santiago|Savannah|Seattle|Sebastopol|Shanghai|Sierra Nevada|Stockholm|Sumter|Teheran|Tehran|"
    "Tokyo|Toronto|Valley Forge|Vancouver|Vera Cruz|Versailles|Vicksburg|Vienna|Wall Street|Wilmington|Yalta|Yorktown|"
    "Yosemite|Yellowstone|Atlantic Ocean|Pacific Ocean|Indian Ocean|Mediterranean|Black Sea|Baltic|Rocky Mountains|"
    "Chesapeake Bay|Great Lakes|Isthmus of Panama|Straits of Florida|Falkland Islands|Chesapeake"
).split("|")

GEOGRAPHY: Final = (
    "River|Bay|Island|Islands|Valley|Canal|Lakes|Mountains|County|Harbor|Creek|Peninsula|Strait|Straits|Territory"
).split("|")
"""A capitalised word before one of these is a place: "Fox River"."""

GEOGRAPHY_BEFORE: Final = "Lake|Cape|Fort|Port|Mount|Isthmus of|Gulf of|Bay of|Straits of|Strait of|Bight of".split("|")
"""A capitalised word after one of these is a place: "Fort Wayne"."""

TITLES: Final = (
    "Miss|Sir|Lord|Baron|Count|King|Queen|Prince|Emperor|Czar|Pope|Bishop|Reverend|President|Vice President|"
    "Prime Minister|Chancellor|Premier|Governor|Senator|Congressman|Congresswoman|Representative|Speaker|Justice|"
    "Chief Justice|Judge|Secretary|Attorney General|Ambassador|Minister|Consul|Commissioner|General|"
    "Lieutenant General|Major General|Brigadier General|Colonel|Major|Captain|Lieutenant|Commodore|Admiral|"
    "Rear Admiral|Commander|Sergeant|Corporal|Private|Professor"
).split("|")

TITLES_WITH_DOT: Final = "Mr|Mrs|Ms|Messrs|Dr|Rev|Gov|Gen|Col|Capt|Lieut|Prof|Sen".split("|")
"""Titles that are cut short, with or without their full stop."""

NOT_A_SURNAME: Final = frozenset(
    (
        "Academy Act Affairs Agency Agent Appropriation Army Assembly Association Bank Board Bureau Cabinet Chairman "
        "Claims Committee Conference Congress Convention Council Counsel Court Department Depot District Doctrine "
        "Education Election Federation Fund General Government Governor Grant Hospital House Industrial Justice "
        "Land Law Laws Legislature Majesty Manager Members Mint Navy Office Officer Order Party Pension Post Property "
        "Public Revenue School Secretary Senate Service Session Settlement Speaker State States Staff Superintendent "
        "Survey Treasurer Treasury Treaty Tribunal Union Volunteers War World And But For He I If In It My Of Our "
        "The Their This Those Today Tonight Under We When While With You Your Accounting Advisory Business Cross "
        "Plenipotentiary Resident Pro President Vice Sector Reform Investment Enterprise Secretaries Presidents"
    ).split()
)
"""Words that follow a title without being a name: "General Land Office"."""

SURNAMES_LEFT_OUT: Final = frozenset({"Washington", "Grant", "Ford", "Pierce", "Cleveland", "Bush"})
"""Presidents whose surname alone is more often a place, a verb or a thing."""

UNITS: Final = (
    "dollars?|cents?|per ?cent|percent|%|acres?|square miles|miles?|tons?|bushels|pounds|ounces|bales|barrels|gallons|"
    "feet|inches|yards|degrees|kilowatts?|megawatts|horsepower|cubic yards|cubic feet|men|women|children|persons|"
    "people|souls|inhabitants|immigrants|Indians|soldiers|troops|seamen|officers|pensioners|veterans|workers|families|"
    "farms|homes|jobs|schools|post-offices|post offices|votes|vessels|ships|guns|planes|aircraft|patents|copies|"
    "pieces|pages|letters|years|months|weeks|days|hours|minutes"
)
"""What amounts are counted in, as the inside of a regular expression."""
